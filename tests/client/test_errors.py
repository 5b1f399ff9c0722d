"""Tests of the client's errors."""

import pytest

from sglang_diffusion_routing.client.errors import DecodeError, FanOutFailed, JobFailed, Refused

pytestmark = pytest.mark.core


def test_a_refusal_tells_its_status_first() -> None:
    error = Refused("the queue is full", status=429, code="queue_full", facts={"queued": 3}, retry_after_s=2)

    assert str(error) == "429: the queue is full"
    assert (error.code, error.facts, error.retry_after_s) == ("queue_full", {"queued": 3}, 2)


def test_a_decode_error_is_a_value_error_with_the_field_first() -> None:
    error = DecodeError("[0].dit_trajectory.latents", "too short")

    assert isinstance(error, ValueError)
    assert (str(error), error.field) == ("[0].dit_trajectory.latents: too short", "[0].dit_trajectory.latents")


def test_a_failed_fan_out_names_the_workers_that_did_not() -> None:
    reply = {
        "results": [
            {"worker_url": "http://a", "status_code": 200, "body": {"success": True}},
            {"worker_url": "http://b", "status_code": 200, "body": {"success": False, "message": "no such file"}},
            {"worker_url": "http://c", "status_code": 502, "body": {"error": "gone"}},
        ],
        "skipped": [{"worker_url": "http://d", "reason": "quarantined"}],
    }

    told = str(FanOutFailed("refit", reply))
    assert told.startswith("refit: http://b answered 200: ")
    assert "http://c answered 502" in told
    assert told.endswith("http://d was skipped: quarantined")
    assert "http://a" not in told


def test_a_failed_fan_out_without_workers_tells_its_message() -> None:
    assert str(FanOutFailed("wake", {"message": "nobody was asked"})) == "wake: nobody was asked"


@pytest.mark.parametrize(
    ("job", "said"), [({"status": "failed"}, "failed"), ({"error": "out of memory"}, "out of memory")]
)
def test_a_failed_job_tells_why(job: dict[str, str], said: str) -> None:
    assert str(JobFailed("v1", job)) == f"v1: {said}"
