"""Tests of what the client can do, step by step; the transport is the test."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from sglang_diffusion_routing.client import operations
from sglang_diffusion_routing.client.errors import (
    DecodeError,
    FanOutFailed,
    JobFailed,
    Refused,
    TookTooLong,
    Unreachable,
)
from sglang_diffusion_routing.client.exchange import NO_ANSWER, Answer, Fetch, Operation, Rest, Send, Step, T
from sglang_diffusion_routing.client.operations import Retry, download, refusal, wait_for_job
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


def test_a_job_with_files_is_a_form() -> None:
    body = {"prompt": "a", "seconds": 4}
    create = operations.create_job(
        "videos", body, [("input_reference", ("f.png", b"x", "image/png"))], NO_TERMS, Retry()
    )
    job, steps = play(create, said(200, {"id": "v"}))

    assert job == {"id": "v"}
    send = steps[0]
    assert isinstance(send, Send)
    assert (send.path, send.form, send.json) == ("/v1/videos", {"prompt": "a", "seconds": "4"}, None)
    assert send.files == (("input_reference", ("f.png", b"x", "image/png")),)


def test_an_edit_sends_its_images_along() -> None:
    edit = operations.edits({"prompt": "red"}, [("a.png", b"a", "t"), ("b.png", b"b", "t")], NO_TERMS, Retry())
    _, steps = play(edit, said(200, {"data": []}))

    assert isinstance(steps[0], Send)
    assert steps[0].files == (("image", ("a.png", b"a", "t")), ("image", ("b.png", b"b", "t")))


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


# Downloads.

FILE = b"0123456789"


class Server:
    """A file behind a connection that breaks after some bytes."""

    def __init__(self, *breaks_after: int, tag: str | None = '"a"') -> None:
        self.breaks_after = list(breaks_after)
        self.tag = tag
        self.ranges: list[str | None] = []
        self.file = FILE

    def answer(self, fetch: Fetch) -> Answer:
        asked = fetch.send.headers.get("range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and fetch.send.headers["if-range"] != self.tag:
            start, asked = 0, None
        if start >= len(self.file):
            return said(416, {"error": "beyond"})
        headers = {"content-length": str(len(self.file) - start)} | ({"etag": self.tag} if self.tag else {})
        if asked:
            headers["content-range"] = f"bytes {start}-{len(self.file) - 1}/{len(self.file)}"
        sink = fetch.on_head(206 if asked else 200, headers)
        piece = self.file[start:]
        if self.breaks_after:
            piece = piece[: self.breaks_after.pop(0)]
        sink.write(piece)
        fetch.on_bytes(len(piece))
        if len(piece) < len(self.file) - start:
            raise GONE
        return Answer(206 if asked else 200, headers, b"")


def fetch(server: Server, target: Path, attempts: int = 5) -> list[tuple[int, int | None]]:
    counts: list[tuple[int, int | None]] = []
    operation = download("/v1/videos/v/content", target, Retry(attempts, 0.0), lambda *count: counts.append(count))
    step = next(operation)
    try:
        while True:
            if isinstance(step, Fetch):
                try:
                    answer = server.answer(step)
                except Unreachable as error:
                    step = operation.throw(error)
                    continue
                step = operation.send(answer)
            else:
                step = operation.send(NO_ANSWER)
    except StopIteration:
        return counts


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    server, target = Server(4, 3), tmp_path / "v.mp4"

    assert fetch(server, target) == [(4, 10), (7, 10), (10, 10)]
    assert server.ranges == [None, "bytes=4-", "bytes=7-"]
    assert target.read_bytes() == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_a_later_call_goes_on_too(tmp_path: Path) -> None:
    server, target = Server(4), tmp_path / "v.mp4"
    with pytest.raises(Unreachable):
        fetch(server, target, attempts=1)
    assert not target.exists()

    fetch(server, target)
    assert (server.ranges, target.read_bytes()) == ([None, "bytes=4-"], FILE)


def test_a_file_that_has_changed_is_fetched_anew(tmp_path: Path) -> None:
    server, target = Server(4), tmp_path / "v.mp4"
    with pytest.raises(Unreachable):
        fetch(server, target, attempts=1)
    server.tag, server.file = '"b"', b"another file"

    fetch(server, target)
    assert target.read_bytes() == b"another file"


def test_without_a_strong_tag_nothing_is_pieced_together(tmp_path: Path) -> None:
    for tag in (None, 'W/"a"'):
        server, target = Server(4, tag=tag), tmp_path / "v.mp4"
        fetch(server, target)
        assert (server.ranges, target.read_bytes()) == ([None, None], FILE)


def test_a_file_that_has_become_shorter_is_fetched_anew(tmp_path: Path) -> None:
    server, target = Server(4), tmp_path / "v.mp4"
    with pytest.raises(Unreachable):
        fetch(server, target, attempts=1)
    server.file = b"012"

    fetch(server, target)
    assert target.read_bytes() == b"012"


def test_a_piece_from_elsewhere_is_not_taken(tmp_path: Path) -> None:
    server, target = Server(4), tmp_path / "v.mp4"
    with pytest.raises(Unreachable):
        fetch(server, target, attempts=1)
    operation = download("/f", target, Retry(1), lambda *_: None)
    step = next(operation)
    assert isinstance(step, Fetch)

    with pytest.raises(DecodeError, match="from 4 was asked for, 5 came"):
        step.on_head(206, {"content-range": "bytes 5-9/10", "etag": '"a"'})
    operation.close()


def test_a_refused_download_leaves_what_there_is(tmp_path: Path) -> None:
    operation = download("/f", tmp_path / "v.mp4", Retry(), lambda *_: None)
    next(operation)
    with pytest.raises(Refused, match="404"):
        operation.send(said(404, {"detail": "Generation is still in-progress"}))
    assert list(tmp_path.iterdir()) == []
