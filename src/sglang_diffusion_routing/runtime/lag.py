"""Measure how late the event loop is: what is due on it waits for whatever runs."""

from __future__ import annotations

import asyncio
import time

from sglang_diffusion_routing.metrics.histogram import LAG_S, Histogram

EVERY_S = 0.1
"""Ten looks a second find whatever holds the loop for longer than that, and cost 0.01 % of a processor."""
WINDOW_S = 30.0
"""The largest delay is that of this window and of the one before it, so that it is there for more than one scrape."""


class Lag:
    """Asks the loop to be called at an instant, again and again, and looks how much later that happened.

    Attributes:
        delays: all of them, in seconds.
    """

    def __init__(self) -> None:
        self.delays = Histogram(LAG_S)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._largest_s = self._largest_before_s = 0.0
        self._window_ends_s = time.monotonic() + WINDOW_S

    @property
    def largest_s(self) -> float:
        """The largest delay of the last 30 to 60 seconds."""
        return max(self._largest_s, self._largest_before_s)

    def start(self) -> None:
        """Begin."""
        self._wait()

    def stop(self) -> None:
        """Look no more; safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        # The loop's own clock has milliseconds, and stands while it works.
        self._due_s = time.monotonic() + EVERY_S
        self._timer = self._loop.call_later(EVERY_S, self._look)

    def _look(self) -> None:
        now_s = time.monotonic()
        self.note(now_s - self._due_s, now_s)
        self._wait()

    def note(self, delay_s: float, now_s: float) -> None:
        """Count one delay, at an instant; a loop's timers may be a moment early, which is none."""
        delay_s = max(delay_s, 0.0)
        self.delays.observe(delay_s)
        if now_s >= self._window_ends_s:
            # A loop that stood for two windows has nothing to say of the one between.
            missed = now_s >= self._window_ends_s + WINDOW_S
            self._largest_before_s = 0.0 if missed else self._largest_s
            self._largest_s = 0.0
            self._window_ends_s = now_s + WINDOW_S
        self._largest_s = max(self._largest_s, delay_s)
