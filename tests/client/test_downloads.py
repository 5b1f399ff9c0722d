"""Tests of downloads that break off; the transport is the test."""

import json
from pathlib import Path

import pytest

from sglang_diffusion_routing.client.downloads import download
from sglang_diffusion_routing.client.errors import DecodeError, Refused, Unreachable
from sglang_diffusion_routing.client.exchange import NO_ANSWER, Answer, Fetch
from sglang_diffusion_routing.client.operations import Retry

pytestmark = pytest.mark.core

GONE = Unreachable("gone")


def said(status: int, body: object) -> Answer:
    return Answer(status, {}, json.dumps(body).encode())


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
