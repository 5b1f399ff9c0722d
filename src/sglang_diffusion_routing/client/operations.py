"""What the client can do, step by step, whatever carries the steps out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sglang_diffusion_routing.client import replies
from sglang_diffusion_routing.client.errors import (
    ClientError,
    FanOutFailed,
    JobFailed,
    Refused,
    TookTooLong,
    Unreachable,
)
from sglang_diffusion_routing.client.exchange import Answer, Operation, Rest, Send
from sglang_diffusion_routing.client.made import Generation, Images, Rollout
from sglang_diffusion_routing.client.terms import Terms

Job = Mapping[str, Any]
File = tuple[str, bytes, str]
"""Name, bytes and media type of a file that is sent along."""

_AS_BYTES = {"response_format": "b64_json"}
_ENDED_WELL = frozenset({"completed"})
_ENDED = frozenset({"completed", "failed", "deleted", "cancelled"})
_JOINS_LATER = "idempotency_key_in_use"
TURNED_AWAY = frozenset({429, 503})
"""Statuses that say: come back."""
_LONGEST_REST_S = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to go on when the router cannot be reached, is full, or has no worker at present (429, 503).

    attempts: sends in all. wait_s: rest between two, where the reply does not say. A repeat joins the first by its
    `Idempotency-Key` while that is queued or running, so that it is not run twice.
    """

    attempts: int = 60
    wait_s: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_s < 0:
            raise ValueError("at least one attempt is needed, and no negative rest")


DEFAULT_RETRY = Retry()


def rollout(body: Mapping[str, Any], terms: Terms, retry: Retry) -> Operation[Rollout]:
    """Make the samples of one prompt."""
    return replies.rollout((yield from _work("/rollout/generate", terms, retry, json_body=body)))


def generation(
    prompt: str, seed: int | None, request: Mapping[str, Any], terms: Terms, retry: Retry
) -> Operation[Generation]:
    """Make one sample by the native route of older workers."""
    body = {"prompt": prompt, "seed": seed, **request}
    return replies.generation((yield from _work("/v1/diffusion/generate", terms, retry, json_body=body)))


def images(prompt: str, request: Mapping[str, Any], terms: Terms, retry: Retry) -> Operation[Images]:
    """Make images, whose bytes come along unless the request asks for something else."""
    body = {**_AS_BYTES, "prompt": prompt, **request}
    return replies.images((yield from _work("/v1/images/generations", terms, retry, json_body=body)))


def edits(
    prompt: str, pictures: Iterable[str | Path], request: Mapping[str, Any], terms: Terms, retry: Retry
) -> Operation[Images]:
    """Change images that are in files."""
    form = {**_AS_BYTES, "prompt": prompt, **{name: str(value) for name, value in request.items()}}
    parts = tuple(("image", file_of(path)) for path in pictures)
    return replies.images((yield from _work("/v1/images/edits", terms, retry, form=form, files=parts)))


def _work(
    path: str,
    terms: Terms,
    retry: Retry,
    *,
    json_body: Mapping[str, Any] | None = None,
    form: Mapping[str, str] | None = None,
    files: tuple[tuple[str, File], ...] = (),
) -> Operation[Answer]:
    headers = terms.headers() | {"idempotency-key": secrets.token_hex(16)}
    send = Send("POST", path, json=json_body, form=form, files=files, headers=headers)
    error: ClientError = Unreachable("never sent")
    for attempt in range(1, retry.attempts + 1):
        rest_s = retry.wait_s
        try:
            answer = yield send
        except Unreachable as unreachable:
            error = unreachable
        else:
            if answer.status < 400:
                return answer
            refused = error = refusal(answer)
            if refused.status not in TURNED_AWAY and refused.code != _JOINS_LATER:
                break
            rest_s = retry.wait_s if refused.retry_after_s is None else refused.retry_after_s
        if attempt < retry.attempts:
            yield Rest(min(rest_s, _LONGEST_REST_S))
    raise error


def file_of(path: str | Path) -> File:
    """Read a file that is to be sent along."""
    return Path(path).name, Path(path).read_bytes(), "application/octet-stream"


def call(send: Send) -> Operation[dict[str, Any]]:
    """Send a request that is answered with a JSON object, and give that.

    Raises:
        Refused: the answer is an error.
    """
    answer = yield send
    if answer.status >= 400:
        raise refusal(answer)
    return replies.json_object(answer)


def fan_out(what: str, send: Send, *, partial_ok: bool) -> Operation[dict[str, Any]]:
    """Have all workers do something.

    Raises:
        FanOutFailed: not every one has, and `partial_ok` is not set.
    """
    reply = yield from call(send)
    if not (reply.get("success") or partial_ok):
        raise FanOutFailed(what, reply)
    return reply


# Jobs: videos and meshes.


def job_path(kind: str, job_id: str, tail: str = "") -> str:
    """Give the path of a job: `/v1/videos/{id}`."""
    return f"/v1/{kind}/{quote(job_id, safe='')}{tail}"


def create_job(
    kind: str,
    prompt: str,
    request: Mapping[str, Any],
    files: Mapping[str, str | Path] | None,
    terms: Terms,
    retry: Retry,
) -> Operation[Job]:
    """Begin a job; with files, by the name of their field, as a form."""
    body = {"prompt": prompt, **request}
    if files:
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
        parts = tuple((name, file_of(path)) for name, path in files.items())
        answer = yield from _work(f"/v1/{kind}", terms, retry, form=form, files=parts)
    else:
        answer = yield from _work(f"/v1/{kind}", terms, retry, json_body=body)
    return replies.json_object(answer)


def wait_for_job(
    kind: str,
    job_id: str,
    on_progress: Callable[[Job], None],
    poll_s: float,
    timeout_s: float | None,
    now_s: Callable[[], float],
) -> Operation[Job]:
    """Ask for a job until it has ended.

    A router that is being restarted, or that cannot ask the worker at present, is asked again.

    Raises:
        JobFailed: it has ended without a result.
        TookTooLong: it has not ended in time.
    """
    began_s = now_s()
    while True:
        job: Job = {}
        try:
            job = yield from call(Send("GET", job_path(kind, job_id)))
            on_progress(job)
        except Refused as error:
            if error.status not in TURNED_AWAY:
                raise
        except Unreachable:
            pass
        status = job.get("status")
        if status in _ENDED_WELL:
            return job
        if status in _ENDED:
            raise JobFailed(job_id, job)
        if timeout_s is not None and now_s() - began_s + poll_s > timeout_s:
            raise TookTooLong(f"{job_id} has not ended after {timeout_s:g} s: {status or 'no answer'}")
        yield Rest(poll_s)


def health() -> Operation[dict[str, Any]]:
    """Give the health that the router tells, good (200) or bad (503)."""
    answer = yield Send("GET", "/health")
    return replies.json_object(answer)


def text(path: str) -> Operation[str]:
    """Give the text at a path.

    Raises:
        Refused: the answer is an error.
    """
    answer = yield Send("GET", path)
    if answer.status >= 400:
        raise refusal(answer)
    return answer.body.decode(errors="replace")


def told_nobody(*_: object) -> None:
    """Take progress that nobody wants to hear of."""


def refusal(answer: Answer) -> Refused:
    """Say what an error reply says, in whatever form the router or a worker has put it."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = answer.body[:300].decode(errors="replace")
    message, code, facts = body, "", dict[str, Any]()
    if isinstance(body, dict):
        code = str(body.get("code") or "")
        said = body.get("error", body.get("detail", body.get("message", body)))
        message = said.get("message", said) if isinstance(said, dict) else said
        facts = {name: value for name, value in body.items() if name not in {"error", "code"}}
    after = answer.headers.get("retry-after", "")
    return Refused(
        str(message)[:1000],
        status=answer.status,
        code=code,
        facts=facts,
        retry_after_s=float(after) if after.isdigit() else None,
    )
