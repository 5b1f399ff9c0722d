"""Notice early that an incomplete head can never become a valid one."""

from __future__ import annotations

import httptools


class HeadInProgress:
    """Bytes of a head whose empty line has not come yet.

    Its beginning is shown to llhttp whenever it has doubled, so that nonsense is answered at once instead of
    after the head's deadline, at a cost linear in its length.
    """

    __slots__ = ("_checked_bytes", "_of_request", "data")

    def __init__(self, data: bytes, *, of_request: bool) -> None:
        self.data = data
        self._of_request = of_request
        self._checked_bytes = 0

    def check(self) -> None:
        """Raise llhttp's error when what is here is already wrong."""
        data = self.data
        # llhttp wants CRLF: a head in bare LF would wait for ever for its CRLFCRLF.
        if len(data) < 2 * self._checked_bytes and b"\n\n" not in data[self._checked_bytes - 1 :]:
            return
        self._checked_bytes = len(data)
        sink = _Ignore()
        parser = httptools.HttpRequestParser(sink) if self._of_request else httptools.HttpResponseParser(sink)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return


class _Ignore:
    """Takes llhttp's callbacks for granted."""
