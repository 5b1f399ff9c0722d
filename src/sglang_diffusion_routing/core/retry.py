"""May a request that failed on one worker be sent to another?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# A request that takes two workers down with it is taken to be the reason.
_DEADLY = 2

BUDGET_SPARE = 10
"""Retries that may be under way however little else is, so that small fleets lose nothing (Envoy has 3)."""


class Failure(Enum):
    """How an attempt failed."""

    CONNECT = "connect"
    """Nothing was accepted: refused, or timed out while connecting."""
    DIED = "died"
    """The connection broke before the reply's head."""
    ASLEEP = "asleep"
    """The worker said that it sleeps; nothing ran."""
    TIMED_OUT = "timed out"
    """No answer in time; operators may ask to have that tried elsewhere as well."""
    STATUS = "status"
    """A whole reply whose status operators may ask to have tried elsewhere."""
    BEGUN = "begun"
    """The connection broke after the reply's head."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """retries: sends after the first; 0 for none.

    statuses: of the replies that are tried elsewhere when asked; timeouts: whether what is late is, too.
    """

    retries: int = 1
    statuses: frozenset[int] = frozenset()
    timeouts: bool = False


def may_retry(failure: Failure, limits: RetryLimits, *, killed: int, failed: int) -> bool:
    """Tell whether `failure` may be sent to another worker.

    A connect failure may, since no worker has seen the request, and each worker is tried once at most; so may what a
    sleeping worker turned down. A worker that died before its response head may, once: a request that has killed two
    workers is answered 502 with both names. What is late may only when asked, since the generation may still be running
    (HAProxy's `retry-on` warns of it), and so may an HTTP error; a response that has begun never may.

    Args:
        killed: workers that the request has reached and that died under it.
        failed: workers that have had the request and failed it, dead ones included.
    """
    if limits.retries == 0 or killed >= _DEADLY:
        return False
    match failure:
        case Failure.CONNECT | Failure.ASLEEP:
            return True
        case Failure.DIED | Failure.STATUS:
            return failed <= limits.retries
        case Failure.TIMED_OUT:
            return limits.timeouts and failed <= limits.retries
        case Failure.BEGUN:
            return False


class RetryBudget:
    """Bounds the requests that are on another worker, or wait for one, because a worker answered an error or was late.

    When much fails at once, repeating all of it would be the next thing that fails (after Envoy's `retry_budget`).
    Connections that failed, deaths and sleepers need no budget: they are bounded by what was on those workers.

    Args:
        percent: of active work, that may be retries; `spare` may be in any case.
    """

    def __init__(self, percent: int, spare: int = BUDGET_SPARE) -> None:
        self._percent = percent
        self._spare = spare
        self.under_way = 0

    def take(self, active: int) -> bool:
        """Let one more request be retried, if it may; `give_back` when it has ended.

        Args:
            active: requests that are on workers or wait for one, this one included.
        """
        if self.under_way >= max(self._spare, active * self._percent // 100):
            return False
        self.under_way += 1
        return True

    def give_back(self) -> None:
        """A retried request has ended."""
        self.under_way -= 1
