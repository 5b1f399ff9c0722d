"""How far an exchange has come."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """How far an exchange has come, towards its worker."""

    WAITING = 0
    """No connection to a worker yet."""
    AWAITING = 1
    """The request is on its way or sent; no reply head yet."""
    HOLDING = 2
    """A reply head has come and is held back until the body is whole."""
    RELAYING = 3
    """The reply's head has gone to the client."""
    DISCARDING = 4
    """The client is gone; the reply is awaited and dropped, for the worker is busy until then."""
    KEEPING = 5
    """The whole reply is here and waits for `let_go`; the worker has no more part in it."""
    ENDED = 6
