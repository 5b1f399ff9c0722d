"""Whether a worker is well: consecutive results in, health and the next probe's instant out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from sglang_diffusion_routing.core.state import Health


class ProbeFailure(Enum):
    """How a probe failed."""

    TIMED_OUT = "timed out"
    """Connected or not, no whole answer in time: also what a worker does whose event loop is blocked."""
    REFUSED = "refused"
    """Nobody listens there, or the name does not resolve: no worker is that busy."""
    ENGINE_DIED = "engine died"
    """The worker says that the process that generates has ended (503 with status "unhealthy"); only a restart helps."""
    BAD_ANSWER = "bad answer"
    """Any other answer than 200, or a connection that broke."""


FATAL = frozenset({ProbeFailure.REFUSED, ProbeFailure.ENGINE_DIED})
"""Failures after which nothing that the worker was doing will end by itself."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """When a worker is no longer, or again, trusted.

    interval_s: between the probes of a healthy worker.
    threshold: consecutive failures that quarantine a healthy worker.
    backoff_first_s, backoff_max_s: wait after the first failure; doubled after each further one, up to the second.
    busy_grace_s: how long a busy worker may stay silent. Large models block a worker's event loop for tens of seconds.
    """

    interval_s: float = 10.0
    threshold: int = 3
    backoff_first_s: float = 1.0
    backoff_max_s: float = 15.0
    busy_grace_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is remembered of a worker's probes.

    health: the verdict.
    sticky: quarantined by an operator; no success brings it back.
    failures: consecutive ones.
    silent_since_s: instant of the first of the time-outs that were excused since the worker last answered.
    probe_due_s: instant of the next probe.
    answered: whether a probe has ever succeeded.
    """

    health: Health = Health.UNKNOWN
    sticky: bool = False
    failures: int = 0
    silent_since_s: float | None = None
    probe_due_s: float = 0.0
    answered: bool = False


def backoff_s(failures: int, limits: HealthLimits) -> float:
    """Give the wait after the last of `failures` consecutive failures (1 or more)."""
    # 2 ** 30 s is beyond any back-off; the exponent is kept from growing for ever.
    return min(limits.backoff_first_s * float(2 ** min(failures - 1, 30)), limits.backoff_max_s)


def succeeded(vitals: Vitals, now_s: float, limits: HealthLimits) -> Vitals:
    """One success makes a worker healthy, unless an operator has quarantined it."""
    return replace(
        vitals,
        health=Health.QUARANTINED if vitals.sticky else Health.HEALTHY,
        failures=0,
        silent_since_s=None,
        probe_due_s=now_s + limits.interval_s,
        answered=True,
    )


def failed(vitals: Vitals, now_s: float, limits: HealthLimits) -> Vitals:
    """Count a failure: an unknown worker is quarantined by the first, a healthy one by the threshold's."""
    failures = vitals.failures + 1
    health = vitals.health
    if health is Health.UNKNOWN or failures >= limits.threshold:
        health = Health.QUARANTINED
    wait_s = backoff_s(failures, limits)
    if health is Health.HEALTHY:
        wait_s = min(wait_s, limits.interval_s)
    return replace(vitals, health=health, failures=failures, probe_due_s=now_s + wait_s)


def excused(vitals: Vitals, now_s: float, answered_s: float | None, limits: HealthLimits) -> Vitals | None:
    """Excuse a busy worker's time-out, if its grace lasts.

    Args:
        answered_s: instant at which the worker last completed a reply to work; it was not silent before that.

    Returns:
        The vitals with the time-out noted, or None if the grace has passed and the time-out is a failure.
    """
    since_s = now_s if vitals.silent_since_s is None else vitals.silent_since_s
    if answered_s is not None:
        since_s = max(since_s, answered_s)
    if now_s - since_s >= limits.busy_grace_s:
        return None
    return replace(vitals, silent_since_s=since_s, probe_due_s=now_s + limits.interval_s)


def quarantined(vitals: Vitals, now_s: float, wait_s: float, limits: HealthLimits) -> Vitals:
    """Take a worker out for another reason than its probes, the next of which comes after `wait_s`."""
    return replace(
        vitals,
        health=Health.QUARANTINED,
        failures=max(vitals.failures, limits.threshold),
        probe_due_s=now_s + wait_s,
    )


def quarantined_by_operator(vitals: Vitals) -> Vitals:
    """Take a worker out until an operator brings it back; it is probed as before."""
    return replace(vitals, health=Health.QUARANTINED, sticky=True)


def doubted(vitals: Vitals, now_s: float) -> Vitals:
    """Forget the verdict: the next result decides, and it is due now."""
    return replace(vitals, health=Health.UNKNOWN, sticky=False, failures=0, silent_since_s=None, probe_due_s=now_s)
