"""The judge of the random schedules finds what it is there to find, and nothing else."""

import pytest

from support.oracle import UNTOLD, Oracle, Sample
from support.schedule import drawn

pytestmark = pytest.mark.core

OLD, NEW, NEWER = "checksum of 0", "checksum of v1", "checksum of v2"


def sample(version: str, weights: str, sent_s: float, ended_s: float) -> Sample:
    return Sample(sent_s, ended_s, version, weights, "w0")


def faults_of(oracle: Oracle, *samples: Sample) -> list[str]:
    oracle.samples = list(samples)
    return [fault.partition(": ")[2] for fault in oracle.violations()]


@pytest.fixture
def oracle() -> Oracle:
    """A refit to v1 from 1.0 s to 2.0 s."""
    oracle = Oracle.starting_with("0", OLD)
    oracle.took(oracle.offered("v1", NEW, 1.0), 2.0)
    return oracle


def test_old_before_and_new_after_a_refit_are_right_and_either_during_it(oracle: Oracle) -> None:
    samples = [sample("0", OLD, 0.0, 0.5), sample("0", OLD, 0.9, 2.5), sample("0", OLD, 1.5, 1.7)]
    assert faults_of(oracle, *samples, sample("v1", NEW, 0.5, 1.9), sample("v1", NEW, 2.1, 3.0)) == []


def test_weights_that_are_not_those_of_the_version_are_found(oracle: Oracle) -> None:
    assert faults_of(oracle, sample("v1", OLD, 2.1, 3.0)) == ["made on 0"]
    assert faults_of(oracle, sample("0", "of nobody", 0.0, 0.5)) == ["made on unknown of nobody"]


def test_an_old_sample_that_was_asked_for_after_the_answer_is_found(oracle: Oracle) -> None:
    assert faults_of(oracle, sample("0", OLD, 2.1, 3.0)) == ["wanted were ['v1']"]


def test_a_new_sample_before_its_refit_is_found(oracle: Oracle) -> None:
    assert faults_of(oracle, sample("v1", NEW, 0.0, 0.9)) == ["wanted were ['0']"]
    assert faults_of(oracle, sample("v7", NEW, 0.0, 0.9)) == ["nobody has ever offered that version"]


def test_a_relapse_within_a_refit_is_found(oracle: Oracle) -> None:
    samples = [sample("v1", NEW, 1.2, 1.4), sample("0", OLD, 1.3, 1.9), sample("0", OLD, 1.5, 1.9)]
    assert faults_of(oracle, *samples) == ["v1 was being served already"]


def test_old_beside_new_is_right_in_a_rolling_refit() -> None:
    oracle = Oracle.starting_with("0", OLD)
    oracle.took(oracle.offered("v1", NEW, 1.0, gapless=False), 2.0)
    assert faults_of(oracle, sample("v1", NEW, 1.2, 1.4), sample("0", OLD, 1.5, 1.9)) == []


def test_a_version_that_nobody_took_is_not_wanted_afterwards() -> None:
    oracle = Oracle.starting_with("0", OLD)
    oracle.declined(oracle.offered("v1", NEW, 1.0), 2.0)
    assert faults_of(oracle, sample("0", OLD, 3.0, 4.0), sample("v1", NEW, 3.0, 4.0)) == ["wanted were ['0']"]


def test_after_a_refit_without_an_answer_both_are_right_until_the_next() -> None:
    oracle = Oracle.starting_with("0", OLD)
    oracle.offered("v1", NEW, 1.0)
    oracle.took(oracle.offered("v2", NEWER, 5.0), 6.0)
    assert faults_of(oracle, sample("0", OLD, 3.0, 4.0)) == []
    assert faults_of(oracle, sample("v1", NEW, 3.0, 4.0)) == []
    assert faults_of(oracle, sample("v1", NEW, 6.5, 7.0)) == ["wanted were ['v2']"]


def test_going_back_to_an_earlier_version_is_right() -> None:
    oracle = Oracle.starting_with("0", OLD)
    oracle.took(oracle.offered("v1", NEW, 1.0), 2.0)
    oracle.took(oracle.offered("v2", NEWER, 3.0), 4.0)
    oracle.took(oracle.offered("v1", NEW, 5.0), 6.0)
    samples = [sample("v1", NEW, 2.5, 2.8), sample("v2", NEWER, 4.5, 4.8), sample("v1", NEW, 6.5, 6.8)]
    assert faults_of(oracle, *samples) == []
    assert faults_of(oracle, samples[1], sample("v1", NEW, 4.85, 4.9)) == [
        "wanted were ['v2']",
        "v2 was being served already",
    ]


def test_weights_may_be_untold_only_when_a_refit_did_not_wait_for_running_work(oracle: Oracle) -> None:
    assert faults_of(oracle, sample(UNTOLD, NEW, 1.2, 1.5)) == ["nothing has changed weights under running work"]
    oracle.took(oracle.offered("v2", NEWER, 3.0, abrupt=True), 4.0)
    assert faults_of(oracle, sample(UNTOLD, NEW, 2.9, 3.5), sample(UNTOLD, NEWER, 3.1, 3.5)) == []
    assert faults_of(oracle, sample(UNTOLD, OLD, 2.9, 3.5)) == ["made on 0, wanted: ['v1', 'v2']"]


def test_a_seed_is_a_schedule() -> None:
    assert str(drawn(17)) == str(drawn(17))
    assert len({str(drawn(seed)).partition("\n")[2] for seed in range(200)}) == 200
