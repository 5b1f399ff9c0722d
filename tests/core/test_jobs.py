"""What the words in a job's status mean."""

import pytest

from sglang_diffusion_routing.core.jobs import status_in
from sglang_diffusion_routing.core.work import JobStatus

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("word", "status"),
    [(word, JobStatus.ENDED) for word in ("completed", "succeeded", "Completed")]
    + [(word, JobStatus.FAILED) for word in ("failed", "deleted", "cancelled", "canceled", "expired", "FAILED")],
)
def test_a_job_has_ended_well_or_not_by_these_words(word: str, status: JobStatus) -> None:
    assert status_in(word) is status


@pytest.mark.parametrize("word", ["queued", "in_progress", "", "a word of tomorrow"])
def test_any_other_word_means_that_it_runs(word: str) -> None:
    assert status_in(word) is JobStatus.RUNNING


def test_a_reply_without_a_status_says_nothing() -> None:
    assert status_in(None) is JobStatus.LOST
