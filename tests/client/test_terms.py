"""Tests of a request's terms."""

import pytest

from sglang_diffusion_routing.client.terms import NO_TERMS, Terms

pytestmark = pytest.mark.core


def test_no_terms_are_no_fields() -> None:
    assert NO_TERMS.headers() == {}


def test_each_term_is_the_field_that_the_router_reads() -> None:
    terms = Terms(
        group="p1",
        spread=True,
        worker="http://10.0.0.5:10090",
        priority="evaluation",
        tenant="a",
        cost_mpx_steps=12.5,
        queue_timeout_s=30,
        min_weight_version="step-3",
        request_id="r1",
    )

    assert terms.headers() == {
        "x-sglang-router-group": "p1;spread",
        "x-sglang-router-worker": "http://10.0.0.5:10090",
        "x-sglang-router-priority": "evaluation",
        "x-sglang-router-tenant": "a",
        "x-sglang-router-cost": "12.5",
        "x-sglang-router-queue-timeout": "30",
        "x-sglang-router-min-weight-version": "step-3",
        "x-request-id": "r1",
    }


def test_only_a_group_can_be_spread() -> None:
    with pytest.raises(ValueError, match="only a group"):
        Terms(spread=True).headers()
