"""Tests of what the client can do, step by step; the transport is the test."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from sglang_diffusion_routing.client import operations
from sglang_diffusion_routing.client.errors import (
    FanOutFailed,
    JobFailed,
    Refused,
    TookTooLong,
    Unreachable,
)
from sglang_diffusion_routing.client.exchange import NO_ANSWER, Answer, Operation, Rest, Send, Step, T
from sglang_diffusion_routing.client.operations import Retry, refusal, wait_for_job
from sglang_diffusion_routing.client.terms import NO_TERMS, Terms

pytestmark = pytest.mark.core

GONE = Unreachable("gone")
MADE = Answer(200, {}, msgpack.packb([]))


def said(status: int, body: object, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(body).encode())


def play(operation: Operation[T], *answers: Answer | Unreachable) -> tuple[T, list[Step]]:
    """Answer an operation's requests in turn; give its result and its steps."""
    left, steps = list(answers), []
    step = next(operation)
    try:
        while True:
            steps.append(step)
            if isinstance(step, Rest):
                step = operation.send(NO_ANSWER)
                continue
            answer = left.pop(0)
            step = operation.throw(answer) if isinstance(answer, Unreachable) else operation.send(answer)
    except StopIteration as end:
        assert not left
        return end.value, steps


FULL = said(429, {"error": "the queue is full", "code": "queue_full"}, **{"retry-after": "7"})
NOBODY = said(503, {"error": "nobody", "code": "no_routable_worker"})
JOINS_LATER = said(409, {"error": "too early", "code": "idempotency_key_in_use"})


def test_work_goes_on_while_the_router_is_away_or_full() -> None:
    work = operations.rollout({"prompt": "a"}, Terms(group="g"), Retry(attempts=9, wait_s=2.0))
    rollout, steps = play(work, GONE, FULL, NOBODY, JOINS_LATER, MADE)

    assert rollout.samples == ()
    assert [step.seconds for step in steps if isinstance(step, Rest)] == [2.0, 7.0, 2.0, 2.0]
    sends = [step for step in steps if isinstance(step, Send)]
    assert all(send == sends[0] for send in sends), "a repeat must carry the same key, or it would run again"
    assert sends[0].headers["x-sglang-router-group"] == "g"
    assert len(sends[0].headers["idempotency-key"]) == 32
    assert (sends[0].path, sends[0].json) == ("/rollout/generate", {"prompt": "a"})


def test_two_pieces_of_work_have_two_keys() -> None:
    keys = {
        next(operations.rollout({}, NO_TERMS, Retry())).headers["idempotency-key"]  # type: ignore[union-attr]
        for _ in range(2)
    }
    assert len(keys) == 2


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 504])
def test_an_error_that_another_attempt_would_not_mend_is_told_at_once(status: int) -> None:
    with pytest.raises(Refused) as refused:
        play(operations.rollout({}, NO_TERMS, Retry()), said(status, {"error": "no", "code": "c"}))
    assert (refused.value.status, refused.value.code) == (status, "c")


def test_the_last_error_is_told_when_all_attempts_are_used_up() -> None:
    with pytest.raises(Unreachable):
        play(operations.rollout({}, NO_TERMS, Retry(attempts=2)), FULL, GONE)
    with pytest.raises(Refused):
        play(operations.rollout({}, NO_TERMS, Retry(attempts=2)), GONE, FULL)


def test_nobody_is_told_to_come_back_in_an_hour() -> None:
    late = said(503, {"error": "later"}, **{"retry-after": "3600"})
    _, steps = play(operations.rollout({}, NO_TERMS, Retry()), late, MADE)

    assert steps[1] == Rest(60.0)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error": "full", "code": "queue_full", "queued": 3}', "full", "queue_full"),
        (b'{"error": {"message": "unknown model", "code": 404}}', "unknown model", ""),
        (b'{"detail": "Server is sleeping"}', "Server is sleeping", ""),
        (b'{"detail": [{"loc": ["body"]}]}', "[{'loc': ['body']}]", ""),
        (b'{"success": false, "message": "no such file"}', "no such file", ""),
        (b"Internal Server Error", "Internal Server Error", ""),
        (b"\xff", "\N{REPLACEMENT CHARACTER}", ""),
        (b"[1]", "[1]", ""),
        (b"", "", ""),
    ],
)
def test_an_error_is_read_in_whatever_shape_it_comes(body: bytes, message: str, code: str) -> None:
    refused = refusal(Answer(500, {}, body))

    assert (str(refused), refused.code) == (f"500: {message}", code)


def test_a_routers_error_brings_its_facts() -> None:
    assert refusal(said(429, {"error": "full", "code": "queue_full", "queued": 3})).facts == {"queued": 3}


def test_a_fan_out_that_not_all_have_done_is_an_error_unless_asked() -> None:
    reply = {"results": [{"worker_url": "http://a", "status_code": 502, "body": {}}], "success": False}

    with pytest.raises(FanOutFailed, match="refit: http://a answered 502"):
        play(operations.fan_out("refit", Send("POST", "/x"), partial_ok=False), said(200, reply))
    told, _ = play(operations.fan_out("refit", Send("POST", "/x"), partial_ok=True), said(200, reply))
    assert told == reply


def test_a_job_with_files_is_a_form(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(b"x")
    files = {"input_reference": tmp_path / "f.png"}
    job, steps = play(
        operations.create_job("videos", "a", {"seconds": 4}, files, NO_TERMS, Retry()), said(200, {"id": "v"})
    )

    assert job == {"id": "v"}
    send = steps[0]
    assert isinstance(send, Send)
    assert (send.path, send.form, send.json) == ("/v1/videos", {"prompt": "a", "seconds": "4"}, None)
    assert send.files == (("input_reference", ("f.png", b"x", "application/octet-stream")),)


def test_an_edit_sends_its_images_along(tmp_path: Path) -> None:
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture in pictures:
        picture.write_bytes(picture.stem.encode())
    _, steps = play(operations.edits("red", pictures, {"n": 2}, NO_TERMS, Retry()), said(200, {"data": []}))

    send = steps[0]
    assert isinstance(send, Send)
    assert send.form == {"response_format": "b64_json", "prompt": "red", "n": "2"}
    assert send.files == (
        ("image", ("a.png", b"a", "application/octet-stream")),
        ("image", ("b.png", b"b", "application/octet-stream")),
    )


def test_a_file_is_sent_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"png")

    assert operations.file_of(tmp_path / "fox.png") == ("fox.png", b"png", "application/octet-stream")


class Clock:
    """Goes on by a second whenever it is read."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def wait(*answers: Answer | Unreachable, timeout_s: float | None = None) -> tuple[Mapping[str, Any], list[object]]:
    told: list[object] = []
    waiting = wait_for_job("videos", "a/b", lambda job: told.append(job["status"]), 1.0, timeout_s, Clock())
    job, steps = play(waiting, *answers)
    assert all(step.path == "/v1/videos/a%2Fb" for step in steps if isinstance(step, Send))
    return job, told


def test_a_job_is_waited_for_through_a_routers_restart() -> None:
    queued, done = said(200, {"status": "queued"}), said(200, {"status": "completed", "id": "a/b"})
    job, told = wait(queued, GONE, NOBODY, queued, done)

    assert (job["id"], told) == ("a/b", ["queued", "queued", "completed"])


def test_a_job_that_fails_or_is_forgotten_is_an_error() -> None:
    with pytest.raises(JobFailed, match="out of memory"):
        wait(said(200, {"status": "failed", "error": "out of memory"}))
    with pytest.raises(Refused, match="404"):
        wait(said(404, {"error": "no such job"}))


def test_a_job_is_waited_for_so_long_and_no_longer() -> None:
    queued = said(200, {"status": "queued"})
    with pytest.raises(TookTooLong, match="has not ended after 3 s: queued"):
        wait(*[queued] * 3, timeout_s=3)
