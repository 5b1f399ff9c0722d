"""Read from the settings what bounds the core."""

from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.shares import parse_weights
from sglang_diffusion_routing.settings import Settings


def health_limits(settings: Settings) -> HealthLimits:
    """Say when a worker is sick, and when it is well again."""
    return HealthLimits(
        interval_s=settings.health_check_interval_s,
        threshold=settings.health_check_failure_threshold,
        busy_grace_s=settings.busy_grace_s,
    )


def scheduler_limits(settings: Settings) -> SchedulerLimits:
    """Say how much waits, how much a worker holds, and whose share is larger."""
    return SchedulerLimits(
        queue=QueueLimits(settings.queue_max_requests, settings.queue_max_bytes, settings.weights_wait_s),
        max_concurrency=settings.max_concurrency_per_worker,
        ramp=settings.ramp,
        weights=parse_weights(settings.tenant_weights),
    )
