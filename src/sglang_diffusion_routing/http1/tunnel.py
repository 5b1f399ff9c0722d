"""An upgraded connection: raw bytes both ways, until both sides have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.http1.websocket import SERVICE_RESTART_FRAME, FrameBoundary

FRAME_END_S = 5.0
"""How long the end of a frame, or of what is written already, is waited for."""


class Tunnel:
    """Bytes of an upgraded connection (RFC 9110 §7.8), with back-pressure and half-closes.

    Frames are followed from the worker to the client, so that a close frame can be put between two.
    on_end: called once, with whether the worker's side broke off.
    last_active_s: loop time of the last bytes, as `now_s` of the last `tick` before them.
    """

    survives_half_close = True
    reply_begun = True

    def __init__(
        self,
        downstream: DownstreamConnection,
        upstream: UpstreamConnection,
        *,
        now_s: float,
        on_end: Callable[[bool], None],
    ) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._frames = FrameBoundary()
        self._on_end = on_end
        self._client_ended = False
        self._worker_ended = False
        self._ended = False
        self._active = True
        self._restarting = False
        self.last_active_s = now_s

    def begin(self, head: ReplyHead, lines: bytes, early: bytes) -> None:
        """Tell the client that the protocol is switched, and start to pass bytes."""
        upgrade = head.upgrade or b""
        self._downstream.write(
            b"HTTP/1.1 101 %b\r\n%b%bUpgrade: %b\r\nConnection: Upgrade\r\n\r\n"
            % (head.reason, head.block, lines, upgrade)
        )
        self._downstream.conversation = self
        self._upstream.sink = self
        from_client = self._downstream.become_tunnel()
        if early:
            self.reply_went_on(early, False)
        if from_client:
            self._upstream.write(from_client)

    def tick(self, now_s: float, idle_s: float) -> None:
        """End the tunnel when nothing has passed for `idle_s`."""
        if self._active:
            self._active = False
            self.last_active_s = now_s
        elif now_s - self.last_active_s > idle_s:
            self.close()

    # the client's side

    def client_tunnel(self, data: bytes) -> None:
        self._active = True
        self._upstream.write(data)

    def client_tunnel_ended(self) -> None:
        self._client_ended = True
        if self._worker_ended:
            self.close()
            return
        transport = self._upstream.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def client_body(self, span: bytes, done: bool) -> None:
        """Never called: the request that asked for the upgrade had no body."""

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        return self._upstream.is_stalled(now_s, stall_s)

    def stalled(self, stall_s: float) -> None:
        """The worker takes nothing: end both sides."""
        self._end(worker_failed=True)

    def client_gone(self) -> None:
        self._end(worker_failed=False)

    def client_full(self) -> None:
        self._upstream.pause()

    def client_writable(self) -> None:
        self._upstream.resume()

    # the worker's side

    def reply_went_on(self, span: bytes, done: bool) -> None:
        self._active = True
        cut = self._frames.feed(span)
        if self._restarting and cut is not None:
            self._downstream.write(span[:cut])
            self._say_restart()
        else:
            self._downstream.write(span)

    def upstream_ended(self) -> None:
        self._worker_ended = True
        if self._client_ended:
            self.close()
            return
        transport = self._downstream.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def upstream_lost(self, error: Exception | None) -> None:
        self._end(worker_failed=error is not None)

    def upstream_full(self) -> None:
        self._downstream.pause_body()

    def upstream_writable(self) -> None:
        self._downstream.resume_body()

    def reply_informed(self, head: ReplyHead) -> None:
        """Never called after the switch."""

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        """Never called after the switch."""

    def reply_broken(self, why: str) -> None:
        """Never called after the switch."""

    # ends

    def restart_elsewhere(self) -> None:
        """End with close code 1012 (service restart) at the next frame boundary."""
        if self._ended or self._restarting:
            return
        self._restarting = True
        if self._frames.at_boundary:
            self._say_restart()
        else:
            asyncio.get_running_loop().call_later(FRAME_END_S, self.close)

    def _say_restart(self) -> None:
        self._downstream.write(SERVICE_RESTART_FRAME)
        self.close()

    def close(self) -> None:
        """End both sides, what is written already included."""
        self._end(worker_failed=False)

    def _end(self, *, worker_failed: bool) -> None:
        if self._ended:
            return
        self._ended = True
        self._upstream.detach()
        upstream = self._upstream.transport
        upstream.close()
        # What the client sent last still goes out, but not for ever.
        asyncio.get_running_loop().call_later(FRAME_END_S, upstream.abort)
        self._downstream.conversation = None
        self._downstream.transport.close()
        self._on_end(worker_failed)
