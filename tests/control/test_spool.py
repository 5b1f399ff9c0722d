from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.errors import BodyTooLarge, NoDiskSpace


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(spool: Spool) -> bytes:
    return b"".join([chunk async for chunk in spool.chunks()])


@pytest.mark.parametrize("in_memory_bytes", [0, 3, 7, 100])
async def test_a_body_comes_back_whole_however_much_of_it_is_on_disk(in_memory_bytes: int) -> None:
    with Spool(in_memory_bytes=in_memory_bytes) as spool:
        await spool.fill(stream(b"abc", b"", b"defg", b"h"))
        assert (spool.size_bytes, await read(spool)) == (8, b"abcdefgh")


async def test_two_readers_do_not_disturb_each_other() -> None:
    with Spool(in_memory_bytes=10) as spool:
        await spool.fill(stream(b"x" * 600_000, b"y" * 10))
        first, second = spool.chunks(), spool.chunks()
        one, two = bytearray(), bytearray()
        async for chunk in first:
            one += chunk
            two += await anext(second)
        assert one == two == b"x" * 600_000 + b"y" * 10


async def test_what_is_in_memory_already_is_a_body_too() -> None:
    with Spool.of(b"abc") as spool:
        assert (spool.size_bytes, await read(spool), await read(spool)) == (3, b"abc", b"abc")


async def test_an_empty_body_has_no_chunks() -> None:
    with Spool() as spool:
        await spool.fill(stream())
        assert (spool.size_bytes, await read(spool)) == (0, b"")


async def test_a_body_above_the_limit_is_refused() -> None:
    with Spool(limit_bytes=5) as spool:
        with pytest.raises(BodyTooLarge) as caught:
            await spool.fill(stream(b"abc", b"def"))
        assert caught.value.facts == {"limit_bytes": 5}


async def test_a_disk_that_takes_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with Spool(in_memory_bytes=1) as spool, pytest.raises(NoDiskSpace, match="does not fit on disk: No such file"):
        await spool.fill(stream(b"abc"))
