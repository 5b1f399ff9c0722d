"""Keep one request body so that it can be sent to many workers: small in memory, larger in an unnamed file."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from typing import BinaryIO, Self

from sglang_diffusion_routing.errors import BodyTooLarge, NoDiskSpace

IN_MEMORY_BYTES = 64 * 1024
LIMIT_BYTES = 64 * 2**30
"""The largest checkpoints in use are some tens of GB; this bounds a runaway upload, the disk bounds the rest."""

_READ_BYTES = 256 * 1024


class Spool:
    """A whole body, readable any number of times at once. A context manager: the file goes with it."""

    def __init__(self, *, in_memory_bytes: int = IN_MEMORY_BYTES, limit_bytes: int = LIMIT_BYTES) -> None:
        self._in_memory_bytes = in_memory_bytes
        self._limit_bytes = limit_bytes
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self.size_bytes = 0

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Make a body of what is in memory already."""
        spool = cls()
        spool._memory += content
        spool.size_bytes = len(content)
        return spool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the body go; safe to repeat."""
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    async def fill(self, stream: AsyncIterable[bytes]) -> None:
        """Take the whole of `stream`.

        Raises:
            BodyTooLarge: as soon as more than the limit has come.
            NoDiskSpace: the file system is full or refuses the file.
        """
        async for chunk in stream:
            self.size_bytes += len(chunk)
            if self.size_bytes > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
            self._memory += chunk
            if len(self._memory) > self._in_memory_bytes:
                await self._spill()
        if self._file is not None:
            await self._spill()

    async def _spill(self) -> None:
        """Move what is in memory to the file."""
        held, self._memory = self._memory, bytearray()
        try:
            await asyncio.to_thread(self._write, held)
        except OSError as error:
            raise NoDiskSpace(f"the body does not fit on disk: {error.strerror}") from error

    def _write(self, held: bytearray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        view = memoryview(held)
        while view:
            view = view[self._file.write(view) :]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body from its start; each reader has its own place in it."""
        if self._file is None:
            if self._memory:
                yield bytes(self._memory)
            return
        position = 0
        while position < self.size_bytes:
            chunk = await asyncio.to_thread(os.pread, self._file.fileno(), _READ_BYTES, position)
            if not chunk:
                raise OSError("the spooled body is shorter than it was")
            position += len(chunk)
            yield chunk
