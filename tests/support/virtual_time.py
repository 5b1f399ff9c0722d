"""An event loop whose clock jumps: when nothing is ready it is at once as late as the next timer wants it."""

from __future__ import annotations

import asyncio
import selectors

STUCK_S = 5.0
"""Real time after which a loop without timers, on which nothing happens, is taken to be stuck."""


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]  # which class it is depends on the system
    """Waits for nothing that has a time; what other threads send is still waited for."""

    instant_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(STUCK_S if timeout is None else 0)
        if not ready:
            if timeout is None:
                raise AssertionError("everything waits, and nothing will ever happen")
            self.instant_s += timeout
        return list(ready)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that starts at 0 s and takes no longer than its callbacks, however long they sleep."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.instant_s
