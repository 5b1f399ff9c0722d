"""Keep request bodies that are too large for memory on disk, so that another worker can be sent them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import structlog

_log = structlog.get_logger(__name__)

BEHIND_BYTES = 262_144
"""What may wait for the disk, of one body; more than that, and its client is read no further."""
PIECE_BYTES = 262_144
THREADS = 4
"""Of their own: a disk that hangs must not stop what else is done in threads, such as looking up names."""


class Spools:
    """The bodies that are on disk now, each in an unnamed file, which goes with the router however that ends.

    used_bytes: of all of them. writing: how many are being written this moment.
    failures: bodies that were not kept although there would have been room for them.

    Args:
        folder: where the files are; empty for the system's own folder for such files.
        max_bytes: of one body; 0 keeps none. total_bytes: of all.
    """

    def __init__(self, *, folder: str, max_bytes: int, total_bytes: int) -> None:
        self._folder = folder or None
        self._max_bytes = max_bytes
        self._total_bytes = total_bytes
        self._threads: ThreadPoolExecutor | None = None
        self._is_failing = False
        self.used_bytes = 0
        self.writing = 0
        self.failures = 0

    @property
    def threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="replay-spool")
        return self._threads

    def keep(self, spans: list[bytes], length: int | None, on_room: Callable[[], None]) -> SpooledBody | None:
        """Begin to keep a body of which these are the first bytes; None when that is hopeless.

        Args:
            length: of the whole body, None when nobody knows.
            on_room: called when more of it can be taken, after it was behind.
        """
        if not self._max_bytes or (length is not None and length > self._max_bytes):
            return None
        body = SpooledBody(self, on_room)
        for span in spans:
            body.write(span)
        return body

    def reserve(self, size: int, added: int) -> bool:
        """Take room for `added` more bytes of a body, which has then `size`; False when there is none."""
        if size > self._max_bytes or self.used_bytes + added > self._total_bytes:
            return False
        self.used_bytes += added
        return True

    def open(self) -> BinaryIO:
        """Make a file; to be called in a thread."""
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def wrote(self, error: OSError | None) -> None:
        """Take in how a write ended: the first failure in a row is logged."""
        if error is not None:
            self.failures += 1
            if not self._is_failing:
                _log.warning("replay_spool_failed", why=error.strerror or str(error), folder=self._folder)
        self._is_failing = error is not None

    def close(self) -> None:
        """Let the threads end."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)


class SpooledBody:
    """One body: what has come of it, in a file or on its way there.

    size_bytes: of what has come. is_whole: nothing of it was lost, so it can be read. is_behind: take no more for now.
    """

    def __init__(self, spools: Spools, on_room: Callable[[], None]) -> None:
        self._spools = spools
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._file: BinaryIO | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._write: asyncio.Future[None] | None = None
        self._reads = 0
        self.size_bytes = 0
        self.is_whole = True
        self.is_behind = False

    def write(self, span: bytes) -> None:
        """Take more of the body; when there is no room for it, all of it is let go."""
        if not self.is_whole:
            return
        size = len(span)
        if not self._spools.reserve(self.size_bytes + size, size):
            self._lose()
            return
        self.size_bytes += size
        self._pending.append(span)
        self._pending_bytes += size
        self.is_behind = self._pending_bytes > BEHIND_BYTES
        if self._write is None:
            self._begin()

    def _begin(self) -> None:
        spans, self._pending = self._pending, []
        self._spools.writing += 1
        self._write = self._loop.run_in_executor(self._spools.threads, self._write_all, spans)
        self._write.add_done_callback(self._written)

    def _write_all(self, spans: list[bytes]) -> None:
        if self._file is None:
            self._file = self._spools.open()
        for span in spans:
            left = memoryview(span)
            while left:
                left = left[self._file.write(left) :]

    def _written(self, write: asyncio.Future[None]) -> None:
        self._write = None
        self._spools.writing -= 1
        error = None if write.cancelled() else write.exception()
        if self.is_whole:
            self._spools.wrote(error if isinstance(error, OSError) else None)
            if error is not None:
                self._lose()
        self._pending_bytes = sum(map(len, self._pending))
        if self._pending:
            self._begin()
        elif not self.is_whole:
            self._close_file()
        if self.is_behind and self._pending_bytes <= BEHIND_BYTES:
            self.is_behind = False
            self._on_room()

    def _lose(self) -> None:
        """Keep nothing of it any more: a part is of no use."""
        self.is_whole = False
        self._pending = []
        self._spools.used_bytes -= self.size_bytes
        self.size_bytes = 0
        self._close_file()

    async def spans(self) -> AsyncGenerator[bytes, None]:
        """Yield the body from its start, up to what has come when the last of that has been read.

        Raises:
            OSError: it cannot be read, or not all of it is there.
        """
        position = 0
        while self.is_whole and position < self.size_bytes:
            if self._write is not None:
                await asyncio.wait({self._write})
                continue
            span = await self._read(position)
            if not span:
                break
            position += len(span)
            yield span
        if not self.is_whole or position < self.size_bytes:
            raise OSError("a body that was kept for another try is not whole")

    async def _read(self, position: int) -> bytes:
        file = self._file
        if file is None:
            return b""
        # Closed under a read, the number of this file may be another's by then.
        self._reads += 1
        try:
            reading = self._loop.run_in_executor(self._spools.threads, os.pread, file.fileno(), PIECE_BYTES, position)
            return await reading
        finally:
            self._reads -= 1
            if not self.is_whole:
                self._close_file()

    def close(self) -> None:
        """Let the body go; safe to repeat."""
        if self.is_whole:
            self._lose()

    def _close_file(self) -> None:
        if self._file is not None and self._write is None and not self._reads:
            self._file.close()
            self._file = None
