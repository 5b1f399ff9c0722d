"""Tests of the demo's claims: each must be found broken when it is."""

from collections.abc import Callable

import numpy as np
import pytest

from sglang_diffusion_routing.cli.demo import checks
from sglang_diffusion_routing.cli.demo.checks import Expected, Verdict
from sglang_diffusion_routing.cli.demo.rollout import Sample

pytestmark = pytest.mark.core

MakeSample = Callable[..., Sample]
EXPECTED = Expected(
    prompts=["a fox", "a tram"],
    samples=2,
    version="0",
    checksum="c0ffee",
    workers=frozenset({"http://a:1"}),
)


@pytest.fixture
def groups(make_sample: MakeSample) -> list[list[Sample]]:
    return [
        [make_sample(prompt=prompt, number=number, text=text) for number in range(2)]
        for prompt, text in enumerate(EXPECTED.prompts)
    ]


def faults(groups: list[list[Sample]], expected: Expected = EXPECTED) -> list[str]:
    return [
        *checks.missing(groups, expected),
        *checks.wrong_weights(groups, expected),
        *checks.idle_workers(groups, expected),
    ]


def test_a_good_rollout_has_no_faults(groups: list[list[Sample]]) -> None:
    assert faults(groups) == []


def test_a_missing_sample_is_found(groups: list[list[Sample]]) -> None:
    del groups[1][0]
    assert faults(groups) == ["prompt 2 has 1 samples"]


def test_samples_of_another_prompt_are_found(groups: list[list[Sample]], make_sample: MakeSample) -> None:
    groups[0][1] = make_sample(text="a hedgehog")
    assert faults(groups) == ["prompt 1 got the samples of another prompt"]


@pytest.mark.parametrize("log_probs", [np.zeros(3, dtype=np.float32), np.full(8, np.nan, dtype=np.float32)])
def test_missing_log_probabilities_are_found(
    groups: list[list[Sample]], make_sample: MakeSample, log_probs: np.ndarray
) -> None:
    groups[0][1] = make_sample(number=1, log_probs=log_probs)
    assert faults(groups) == ["sample 1.2 has no log-probability for each step"]


def test_a_sample_on_other_weights_is_found(groups: list[list[Sample]], make_sample: MakeSample) -> None:
    groups[0][0] = make_sample(version="step-1")
    groups[0][1] = make_sample(number=1, weights="beef")
    assert faults(groups) == [
        "sample 1.1 on http://a:1 is labelled 'step-1', not '0'",
        "sample 1.2 on http://a:1 ran on weights beef, not c0ffee",
    ]


def test_a_worker_without_work_is_found(groups: list[list[Sample]]) -> None:
    expected = Expected(EXPECTED.prompts, 2, "0", "c0ffee", frozenset({"http://a:1", "http://b:2"}))
    assert list(checks.idle_workers(groups * 2, expected)) == ["http://b:2 made no sample"]


def test_a_worker_may_be_idle_when_prompts_are_few(groups: list[list[Sample]]) -> None:
    expected = Expected(EXPECTED.prompts, 2, "0", "c0ffee", frozenset({"http://a:1", "http://b:2"}))
    assert list(checks.idle_workers(groups, expected)) == []


def test_a_worker_that_nobody_knows_is_found(groups: list[list[Sample]], make_sample: MakeSample) -> None:
    groups[0][0] = make_sample(worker="http://z:9")
    assert faults(groups) == ["http://z:9 is no worker of the fleet"]


def test_equal_checksums_have_no_faults() -> None:
    rows = [{"worker_url": "http://a:1", "status_code": 200, "body": {"transformer": "c0ffee"}}]
    assert list(checks.unequal_checksums(rows, EXPECTED)) == []


def test_other_and_missing_checksums_are_found() -> None:
    rows = [
        {"worker_url": "http://a:1", "status_code": 200, "body": {"transformer": "beef"}},
        {"worker_url": "http://b:2", "status_code": 502, "body": "gone"},
    ]
    assert list(checks.unequal_checksums(rows, EXPECTED)) == [
        "2 workers answered",
        "http://a:1 reports 'beef'",
        "http://b:2 reports 'gone'",
    ]


def test_a_verdict_keeps_what_holds_apart_from_what_does_not() -> None:
    verdict = Verdict()
    verdict.claim("the sky is blue", [])
    verdict.claim("the sea is dry", ["1", "2", "3", "4", "5"])
    assert verdict == Verdict(held=["the sky is blue"], broken=["not true that the sea is dry: 1; 2; 3 (and 2 more)"])
