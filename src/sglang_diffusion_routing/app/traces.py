"""Say whether traces are made, and where they go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.spans import OFF, Recorder, Tracer

_log = structlog.get_logger(__name__)

ENDPOINT, TRACES_ENDPOINT, DISABLED = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
)
"""OpenTelemetry's own variables, which count where the router's setting is silent
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/)."""
TRACES_PATH = "/v1/traces"
INSTALL = "pip install 'sglang-diffusion-routing[otel]'"


class _Collector(Recorder, Protocol):
    async def aclose(self) -> None: ...


class Traces:
    """The tracer of one router, and what stands behind it.

    tracer: records nothing when no traces are made.
    """

    def __init__(self, tracer: Tracer, collector: _Collector | None) -> None:
        self.tracer = tracer
        self._collector = collector

    @property
    def are_made(self) -> bool:
        return self._collector is not None

    async def aclose(self) -> None:
        """Send what is left; safe to repeat."""
        collector, self._collector = self._collector, None
        if collector is not None:
            await collector.aclose()


def traces(settings: Settings, environ: Mapping[str, str] = os.environ) -> Traces:
    """Have traces made if they are asked for. Needs the running event loop.

    Raises:
        BadSetting: they are, by the router's own setting, and what makes them is not installed.
    """
    asked = settings.otlp_endpoint
    by_variable = bool(environ.get(TRACES_ENDPOINT) or environ.get(ENDPOINT))
    if environ.get(DISABLED, "").strip().lower() == "true" or (asked is None and not by_variable):
        return Traces(OFF, None)
    try:
        from sglang_diffusion_routing.app.otlp import Otlp  # an extra: imported only where it is wanted
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("opentelemetry", "google")):
            raise
        why = f"needs a package that is not installed: {INSTALL}"
        if asked is not None:
            raise BadSetting("--otlp-endpoint", why) from None
        # Whoever set it for all programs of a cluster has not asked for this one.
        _log.warning("traces_off", variable=ENDPOINT, why=why)
        return Traces(OFF, None)
    collector = Otlp(None if asked is None else traces_url(asked))
    return Traces(Tracer(collector, percent=settings.trace_sample_percent), collector)


def traces_url(endpoint: str) -> str:
    """Give the address for traces of a collector's own address; one that names it is left alone."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(TRACES_PATH) else path + TRACES_PATH).geturl()
