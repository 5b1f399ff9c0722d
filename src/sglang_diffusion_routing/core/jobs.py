"""What the words in a job's `status` mean."""

from __future__ import annotations

from sglang_diffusion_routing.core.work import JobStatus

ENDED = frozenset({"completed", "succeeded"})
FAILED = frozenset({"failed", "cancelled", "canceled", "deleted", "expired"})
"""OpenAI's videos end as completed or failed; SGLang 0.5.23 adds deleted; the rest is what forks use."""


def status_in(word: str | None) -> JobStatus:
    """Read the `status` of a job's reply; None (no such member) says nothing."""
    if word is None:
        return JobStatus.LOST
    word = word.lower()
    if word in ENDED:
        return JobStatus.ENDED
    return JobStatus.FAILED if word in FAILED else JobStatus.RUNNING
