"""Tests of where what was made comes from."""

import pytest

from sglang_diffusion_routing.client.exchange import Answer
from sglang_diffusion_routing.client.made import Origin

pytestmark = pytest.mark.core


def test_a_reply_without_the_routers_fields_comes_from_a_worker_itself() -> None:
    assert Origin.of(Answer(200, {"x-sglang-router-queue-ms": "?"}, b"")) == Origin("", "", 0.0)


def test_versions_may_be_any_text() -> None:
    head = {
        "x-sglang-router-weight-version": "schritt-ü".encode().decode("latin-1"),
        "x-sglang-router-worker": "http://w",
    }
    assert Origin.of(Answer(200, head, b"")) == Origin("http://w", "schritt-ü", 0.0)
    # Before UTF-8 there was Latin-1.
    assert Origin.of(Answer(200, {"x-sglang-router-weight-version": "\xe9"}, b"")).weight_version == "\xe9"
