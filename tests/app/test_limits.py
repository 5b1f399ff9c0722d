"""Tests of what bounds the core."""

import pytest

from sglang_diffusion_routing.app.limits import health_limits, scheduler_limits
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.settings import Settings

pytestmark = pytest.mark.core


def test_each_limit_is_that_of_its_setting() -> None:
    settings = Settings(
        health_check_interval_s=1,
        health_check_failure_threshold=2,
        busy_grace_s=3,
        queue_max_requests=4,
        queue_max_bytes=5,
        weights_wait_s=6,
        max_concurrency_per_worker=7,
        ramp=False,
        tenant_weights=("a=8",),
    )
    assert health_limits(settings) == HealthLimits(interval_s=1, threshold=2, busy_grace_s=3)
    assert scheduler_limits(settings) == SchedulerLimits(
        queue=QueueLimits(4, 5, 6), max_concurrency=7, ramp=False, weights={"a": 8}
    )
