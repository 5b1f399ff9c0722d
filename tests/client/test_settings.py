"""Tests of how a client reaches its router."""

import httpx2
import pytest

from sglang_diffusion_routing.client.exchange import Send
from sglang_diffusion_routing.client.operations import Retry
from sglang_diffusion_routing.client.settings import Access, answer_of, numbered

pytestmark = pytest.mark.core


def test_keys_are_sent_where_they_belong_and_shown_nowhere() -> None:
    access = Access("http://r", api_key="data", admin_key="root")

    assert access.arguments(Send("GET", "/a"), control=False)["headers"] == {"authorization": b"Bearer data"}
    assert access.arguments(Send("GET", "/a"), control=True)["headers"] == {"authorization": b"Bearer root"}
    assert Access("http://r", api_key="data").arguments(Send("GET", "/a"), control=True)["headers"] == {
        "authorization": b"Bearer data"
    }
    assert Access("http://r").arguments(Send("GET", "/a"), control=True)["headers"] == {}
    assert "data" not in repr(access)
    assert "root" not in repr(access)


def test_fields_may_hold_any_text() -> None:
    send = Send("GET", "/a", headers={"x-sglang-router-min-weight-version": "schritt-ü"})

    arguments = Access("http://r").arguments(send, control=False)
    assert arguments["headers"] == {"x-sglang-router-min-weight-version": "schritt-ü".encode()}


def test_work_is_waited_for_as_long_as_it_takes() -> None:
    timeout = Access("http://r").options()["timeout"]

    assert (timeout.read, timeout.connect) == (None, 10.0)


def test_names_of_fields_are_in_lower_case() -> None:
    reply = httpx2.Response(200, headers={"Retry-After": "3"})

    assert answer_of(reply, b"x").headers["retry-after"] == "3"


def test_no_two_samples_of_a_batch_have_the_same_seed() -> None:
    bodies = numbered(["a", {"prompt": "b", "width": 64}, {"prompt": "c", "seed": 1}], 7, {"num_outputs_per_prompt": 4})

    assert bodies == [
        {"num_outputs_per_prompt": 4, "prompt": "a", "seed": 7},
        {"num_outputs_per_prompt": 4, "prompt": "b", "width": 64, "seed": 11},
        {"num_outputs_per_prompt": 4, "prompt": "c", "seed": 1},
    ]


def test_a_rollout_without_a_seed_is_found_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="rollout 1 has no seed"):
        numbered([{"prompt": "a", "seed": 1}, "b"], None, {})


def test_at_least_one_attempt_is_made() -> None:
    with pytest.raises(ValueError, match="at least one attempt"):
        Retry(attempts=0)
