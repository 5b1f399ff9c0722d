"""How late the event loop is."""

import time

from sglang_diffusion_routing.metrics.histogram import LAG_S
from sglang_diffusion_routing.runtime.lag import EVERY_S, WINDOW_S, Lag
from support.running import eventually


def over(lag: Lag, bound_s: float) -> int:
    """Count the delays above a bound."""
    return sum(lag.delays.counts[LAG_S.index(bound_s) + 1 :])


async def test_a_loop_that_stood_is_found_late() -> None:
    lag = Lag()
    lag.start()

    async def looked() -> int:
        return sum(lag.delays.counts)

    await eventually(looked, lambda count: count > 0)
    # Nothing else can run meanwhile, which is the point.
    time.sleep(EVERY_S + 0.3)  # noqa: ASYNC251
    await eventually(looked, lambda count: count > 1)
    lag.stop()
    assert over(lag, 0.25) >= 1
    assert lag.largest_s > 0.25


async def test_one_that_is_stopped_looks_no_more() -> None:
    lag = Lag()
    lag.start()
    lag.stop()
    lag.stop()
    assert lag.delays.counts == [0] * (len(LAG_S) + 1)


async def test_a_timer_that_is_early_is_not_late() -> None:
    lag = Lag()
    lag.note(-0.001, 0.0)
    assert (lag.delays.total, lag.largest_s) == (0.0, 0.0)


async def test_the_largest_delay_is_shown_for_one_window_more_and_then_forgotten() -> None:
    lag = Lag()
    now_s = time.monotonic()
    shown = []
    for after_s, delay_s in [(0, 0.5), (1, 0.1), (WINDOW_S, 0.2), (2 * WINDOW_S, 0.05), (3 * WINDOW_S, 0.0)]:
        lag.note(delay_s, now_s + after_s + 0.1)
        shown.append(lag.largest_s)
    assert shown == [0.5, 0.5, 0.5, 0.2, 0.05]


async def test_what_was_before_a_pause_of_two_windows_is_forgotten() -> None:
    lag = Lag()
    now_s = time.monotonic()
    lag.note(0.5, now_s)
    lag.note(0.1, now_s + 3 * WINDOW_S)
    assert lag.largest_s == 0.1
