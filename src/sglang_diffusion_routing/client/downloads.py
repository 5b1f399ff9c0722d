"""Fetch a file, and go on where it broke off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from sglang_diffusion_routing.client.errors import ClientError, DecodeError, Unreachable
from sglang_diffusion_routing.client.exchange import Fetch, Operation, Rest, Send
from sglang_diffusion_routing.client.operations import TURNED_AWAY, Retry, refusal


def download(path: str, target: Path, retry: Retry, on_bytes: Callable[[int, int | None], None]) -> Operation[Path]:
    """Fetch a file, going on where a broken connection or an earlier call has stopped.

    What has come so far lies beside the target, as `NAME.part`, with the entity tag it belongs to; a file that has
    changed in between is fetched anew.
    """
    part, tag_file = Path(f"{target}.part"), Path(f"{target}.part.etag")
    error: ClientError = Unreachable("never sent")
    for attempt in range(1, retry.attempts + 1):
        piece = _Piece(part, tag_file, on_bytes)
        try:
            answer = yield Fetch(Send("GET", path, headers=piece.asks()), piece.began, piece.went_on)
        except Unreachable as unreachable:
            error = unreachable
        else:
            if answer.status < 400:
                part.replace(target)
                tag_file.unlink(missing_ok=True)
                return target
            if answer.status == 416:
                # The file is another, or shorter, than what is here.
                part.unlink(missing_ok=True)
                tag_file.unlink(missing_ok=True)
            error = refusal(answer)
            if answer.status not in {*TURNED_AWAY, 416}:
                break
        finally:
            piece.close()
        if attempt < retry.attempts:
            yield Rest(retry.wait_s)
    raise error


class _Piece:
    """One attempt at a file: from where it goes on, and what it writes."""

    def __init__(self, part: Path, tag_file: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        self._part = part
        self._tag_file = tag_file
        self._on_bytes = on_bytes
        self._from = 0
        self._total: int | None = None
        self._file: BinaryIO | None = None

    def asks(self) -> dict[str, str]:
        if not (self._part.exists() and self._tag_file.exists()):
            return {}
        self._from = self._part.stat().st_size
        # Without the tag nobody could tell whether the rest belongs to the same file (RFC 9110 §13.1.5).
        return {"range": f"bytes={self._from}-", "if-range": self._tag_file.read_text()} if self._from else {}

    def began(self, status: int, headers: Mapping[str, str]) -> BinaryIO:
        if status == 206:
            start = headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(self._from):
                raise DecodeError("content-range", f"from {self._from} was asked for, {start or 'nothing'} came")
        else:
            self._from = 0
        tag = headers.get("etag")
        if tag is not None and not tag.startswith("W/"):
            self._tag_file.write_text(tag)
        else:
            self._tag_file.unlink(missing_ok=True)
        length = headers.get("content-length", "")
        self._total = self._from + int(length) if length.isdigit() else None
        self._file = self._part.open("ab" if status == 206 else "wb")
        return self._file

    def went_on(self, count: int) -> None:
        self._on_bytes(self._from + count, self._total)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
