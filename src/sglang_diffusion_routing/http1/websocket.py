"""Follow WebSocket frames far enough to find their boundaries (RFC 6455 §5.2)."""

from __future__ import annotations

SERVICE_RESTART_FRAME = b"\x88\x02\x03\xf4"
"""A server's close frame with status 1012, service restart (IANA's WebSocket close code registry)."""


class FrameBoundary:
    """Position in one direction's stream of frames.

    at_boundary: the last byte fed was the last of a frame.
    """

    __slots__ = ("_head", "_payload_left", "at_boundary")

    def __init__(self) -> None:
        self.at_boundary = True
        self._head = bytearray()
        self._payload_left = 0

    def feed(self, data: bytes) -> int | None:
        """Take the next bytes; give the offset in `data` after the first frame that ends there, None if none does."""
        position = 0
        first_end: int | None = None
        end = len(data)
        while position < end:
            if self._payload_left:
                taken = min(self._payload_left, end - position)
                self._payload_left -= taken
                position += taken
            else:
                self._head.append(data[position])
                position += 1
                length = self._frame_length()
                if length is None:
                    continue
                self._payload_left = length
                self._head.clear()
            if not self._payload_left and first_end is None:
                first_end = position
        self.at_boundary = not self._payload_left and not self._head
        return first_end

    def _frame_length(self) -> int | None:
        """Give the bytes that follow the head that is gathered, masking key included; None while it is not whole."""
        head = self._head
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        extended = 2 if length == 126 else 8 if length == 127 else 0
        if len(head) < 2 + extended:
            return None
        if extended:
            length = int.from_bytes(head[2 : 2 + extended], "big")
        return length + (4 if head[1] & 0x80 else 0)
