"""Answer `OPTIONS *`, which asks about the router itself."""

from __future__ import annotations

from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.replies import OPTIONS_ASTERISK_REPLY


class OptionsAsterisk:
    """The conversation of one such request."""

    survives_half_close = True
    reply_begun = False

    def __init__(self, connection: DownstreamConnection) -> None:
        self._connection = connection

    def client_body(self, span: bytes, done: bool) -> None:
        if self.reply_begun:
            return
        self.reply_begun = True
        close = self._connection.must_close()
        self._connection.write(OPTIONS_ASTERISK_REPLY % (b"Connection: close\r\n" if close else b""))
        self._connection.reply_done(close=close)

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        return False

    def stalled(self, stall_s: float) -> None: ...
    def client_gone(self) -> None: ...
    def client_full(self) -> None: ...
    def client_writable(self) -> None: ...
    def client_tunnel(self, data: bytes) -> None: ...
    def client_tunnel_ended(self) -> None: ...
