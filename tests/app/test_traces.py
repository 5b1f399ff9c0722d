"""Traces are made where they are asked for, and only there; what they need and is not there is named."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sglang_diffusion_routing.app.traces import Traces, traces, traces_url
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import Settings
from support.collector import collecting

pytestmark = pytest.mark.loopback

OTLP = "sglang_diffusion_routing.app.otlp"


@pytest.fixture
def _without_the_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be where OpenTelemetry is not installed."""
    monkeypatch.delitem(sys.modules, OTLP, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    yield
    sys.modules.pop(OTLP, None)


async def made(settings: dict[str, Any], environ: dict[str, str]) -> bool:
    found = traces(Settings(**settings), environ)
    are_made = found.are_made
    await found.aclose()
    await found.aclose()
    assert not found.are_made
    return are_made


@pytest.mark.parametrize(
    ("settings", "environ", "are_made"),
    [
        ({}, {}, False),
        ({"otlp_endpoint": "http://127.0.0.1:1"}, {}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"otlp_endpoint": "http://127.0.0.1:1"}, {"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"otlp_endpoint": "http://127.0.0.1:1"}, {"OTEL_SDK_DISABLED": "false"}, True),
    ],
)
async def test_they_are_made_where_somebody_asks(
    settings: dict[str, Any], environ: dict[str, str], are_made: bool
) -> None:
    assert await made(settings, environ) is are_made


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/v1/traces/"])
def test_a_collector_is_named_with_or_without_its_path(path: str) -> None:
    assert traces_url(f"http://c:4318{path}").rstrip("/") == "http://c:4318/v1/traces"


def test_a_collector_may_be_below_a_path() -> None:
    assert traces_url("https://c/otlp/?a=1") == "https://c/otlp/v1/traces?a=1"


async def test_the_share_of_the_settings_counts() -> None:
    never = traces(Settings(otlp_endpoint="http://127.0.0.1:1", trace_sample_percent=0), {})
    assert [never.tracer.place(None) for _ in range(100)] == [None] * 100
    await never.aclose()


async def test_spans_go_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        found = traces(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        with found.tracer.span("refit"):
            pass
        await found.aclose()
        assert ([span.name for span in collector.spans], collector.paths) == (["refit"], ["/v1/traces"])


@pytest.mark.usefixtures("_without_the_extra")
async def test_who_asks_without_the_extra_is_told_what_to_install() -> None:
    with pytest.raises(BadSetting) as raised:
        traces(Settings(otlp_endpoint="http://127.0.0.1:1"), {})
    assert "pip install 'sglang-diffusion-routing[otel]'" in raised.value.message
    assert "--otlp-endpoint" in raised.value.message


@pytest.mark.usefixtures("_without_the_extra")
async def test_a_variable_that_is_there_for_all_programs_stops_none() -> None:
    with structlog.testing.capture_logs() as lines:
        found = traces(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert not found.are_made
    assert isinstance(found, Traces)
    assert [(line["event"], line["log_level"]) for line in lines] == [("traces_off", "warning")]
    assert "[otel]" in lines[0]["why"]
