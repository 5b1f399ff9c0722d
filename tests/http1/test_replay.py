"""Bodies on disk, by themselves: bounds, order, and a disk that is full, slow or gone."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from http1.peers import eventually, soon
from sglang_diffusion_routing.http1 import replay
from sglang_diffusion_routing.http1.replay import BEHIND_BYTES, SpooledBody, Spools

pytestmark = pytest.mark.loopback


class Room:
    """Counts how often it was told that there is room."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self) -> None:
        self.told += 1


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[Spools]:
    spools = Spools(folder=str(tmp_path), max_bytes=2**20, total_bytes=3 * 2**20)
    yield spools
    await eventually(lambda: not spools.writing)
    assert spools.used_bytes == 0
    spools.close()


def kept(spools: Spools, *spans: bytes, room: Room | None = None) -> SpooledBody:
    body = spools.keep(list(spans), None, room or Room())
    assert body is not None
    return body


async def read(body: SpooledBody) -> bytes:
    return b"".join([span async for span in body.spans()])


async def test_a_body_can_be_read_as_often_as_needed_and_leaves_nothing(spools: Spools, tmp_path: Path) -> None:
    body = kept(spools, b"a" * 10)
    spans = [os.urandom(100_000) for _ in range(8)]
    for span in spans:
        body.write(span)
    expected = b"a" * 10 + b"".join(spans)
    assert spools.used_bytes == len(expected)
    for _ in range(2):
        assert await soon(read(body)) == expected
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a folder in memory
    body.close()
    body.close()


async def test_what_comes_while_it_is_read_is_read_too(spools: Spools) -> None:
    body = kept(spools, b"1")
    seen = []
    async for span in body.spans():
        seen.append(span)
        if len(seen) < 4:
            body.write(b"%d" % (len(seen) + 1))
    assert seen == [b"1", b"2", b"3", b"4"]
    body.close()


@pytest.mark.parametrize(("length", "is_kept"), [(2**20, True), (2**20 + 1, False), (None, True)])
async def test_what_is_known_to_be_too_large_is_not_begun(spools: Spools, length: int | None, is_kept: bool) -> None:
    body = spools.keep([b"x"], length, Room())
    assert (body is not None) is is_kept
    if body is not None:
        body.close()


async def test_without_a_size_nothing_is_kept(tmp_path: Path) -> None:
    assert Spools(folder=str(tmp_path), max_bytes=0, total_bytes=100).keep([b"x"], 1, Room()) is None


async def test_what_turns_out_too_large_is_let_go_whole(spools: Spools) -> None:
    body = kept(spools, b"x" * 2**20)
    assert body.is_whole
    body.write(b"x")
    assert not body.is_whole
    assert spools.used_bytes == 0
    body.write(b"x")
    with pytest.raises(OSError, match="not whole"):
        await read(body)
    await eventually(lambda: body._file is None and body._write is None)


async def test_all_bodies_together_have_a_bound(spools: Spools) -> None:
    bodies = [kept(spools, b"x" * 2**20) for _ in range(3)]
    assert not kept(spools, b"x").is_whole
    bodies[0].close()
    last = kept(spools, b"x")
    assert last.is_whole
    for body in [*bodies[1:], last]:
        body.close()


async def test_a_folder_that_is_not_there_costs_the_body(tmp_path: Path) -> None:
    spools = Spools(folder=str(tmp_path / "none"), max_bytes=1000, total_bytes=1000)
    for number in (1, 2):
        body = kept(spools, b"x")
        await eventually(lambda body=body: not body.is_whole)
        assert (spools.used_bytes, spools.failures) == (0, number)
    spools.close()


async def test_a_file_that_is_cut_short_is_no_body(spools: Spools) -> None:
    body = kept(spools, b"x" * 1000)
    await eventually(lambda: body._write is None)
    assert body._file is not None
    body._file.truncate(999)
    with pytest.raises(OSError, match="not whole"):
        await read(body)
    body.close()


class SlowDisk:
    """Writes wait for `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        write_all = SpooledBody._write_all

        def slow(body: SpooledBody, spans: list[bytes]) -> None:
            assert self.go.wait(10)
            write_all(body, spans)

        monkeypatch.setattr(SpooledBody, "_write_all", slow)


async def test_who_writes_faster_than_the_disk_is_told(spools: Spools, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, room = SlowDisk(monkeypatch), Room()
    body = kept(spools, b"x" * BEHIND_BYTES, room=room)
    assert not body.is_behind
    body.write(b"y")
    assert body.is_behind
    assert room.told == 0
    disk.go.set()
    await eventually(lambda: not body.is_behind)
    assert room.told == 1
    assert await read(body) == b"x" * BEHIND_BYTES + b"y"
    body.close()


async def test_a_body_that_is_closed_under_a_write_lets_its_file_go(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room()
    body = kept(spools, b"x", room=room)
    await eventually(lambda: body._write is None)
    assert body._file is not None
    number = body._file.fileno()
    disk = SlowDisk(monkeypatch)
    for span in (b"x", b"x" * BEHIND_BYTES, b"y"):
        body.write(span)
    assert body.is_behind
    body.close()
    assert spools.used_bytes == 0
    os.fstat(number)
    disk.go.set()
    await eventually(lambda: body._write is None)
    assert body._file is None
    assert room.told == 1


async def test_a_body_that_is_closed_under_a_read_lets_its_file_go_after_it(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, files = threading.Event(), []
    body = kept(spools, b"x" * 1000)
    await eventually(lambda: body._write is None)

    def pread(number: int, size: int, position: int) -> bytes:
        files.append(number)
        assert go.wait(10)
        return original(number, size, position)

    original = os.pread
    monkeypatch.setattr(replay.os, "pread", pread)
    reading = asyncio.ensure_future(read(body))
    await eventually(lambda: files)
    body.close()
    os.fstat(files[0])
    go.set()
    with pytest.raises(OSError, match="not whole"):
        await soon(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files[0])
