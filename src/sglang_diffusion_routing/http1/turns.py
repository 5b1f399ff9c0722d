"""The turns of an exchange's life at which its owner decides."""

# ruff: noqa: B027 (a turn that is not abstract need not be of interest)

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum

from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.replay import SpooledBody
from sglang_diffusion_routing.http1.reply_head import ReplyHead


class Held(Enum):
    """What becomes of a held reply that is whole."""

    SEND = "send"
    """It goes to the client now."""
    KEEP = "keep"
    """It goes to the client when `let_go` is called; the worker's connection is free already."""
    SWALLOW = "swallow"
    """It goes nowhere: another attempt is under way."""


class Turns(ABC):
    """What a kind of exchange does when something happens; what is not abstract need not be of interest to it."""

    __slots__ = ()

    def on_body(self) -> None:
        """More of the request's body has come while no worker is there for it."""

    @abstractmethod
    def upstream_head(self, worker_id: WorkerId) -> bytes:
        """Give the request's head as this worker gets it."""

    def spooled(self, spans: list[bytes]) -> SpooledBody | None:
        """Keep a body elsewhere than in memory, of which these are the first bytes; None: not at all."""
        return None

    def on_body_lost(self) -> None:
        """What was kept of the body for another worker could not be read: that one cannot have it."""

    def reply_lines(self, head: ReplyHead) -> bytes:
        """Give the header lines that are added to the reply's."""
        return b""

    def relocated(self, head: ReplyHead) -> bytes:
        """Give the header lines of a reply that has a Location, which may name a place that the client cannot reach."""
        return head.block

    def hold_limit_bytes(self, head: ReplyHead) -> int:
        """Tell up to which size this reply is to be seen whole before the client sees any of it; 0: not at all."""
        return 0

    def on_held(self, head: ReplyHead, body: bytes) -> Held:
        """A held reply is whole: say what becomes of it."""
        return Held.SEND

    def on_reply_body(self, span: bytes) -> None:
        """Bytes of a reply's body are about to go to the client."""

    @abstractmethod
    def on_connect_failed(self, error: ConnectFailed) -> None:
        """Nothing has been sent: another worker may be tried."""

    @abstractmethod
    def on_died(self, *, replayable: bool) -> None:
        """The worker's connection broke before any of a reply went to the client, who still waits."""

    def on_orphaned(self) -> None:
        """The client has left and the reply is awaited for the worker's sake."""

    def on_rejoined(self) -> None:
        """Somebody wants the reply again before it has come."""

    @abstractmethod
    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        """The exchange is over, once. whole: the reply came to its end, so the worker is done with the work."""
