"""Typed settings: each is declared once, and its flag, environment variable, YAML key and docs row follow from that."""

from sglang_diffusion_routing.settings.choices import (
    STATE_AUTO,
    TIMEOUT,
    LogFormat,
    LogLevel,
    OnDisconnect,
    RoutingAlgorithm,
)
from sglang_diffusion_routing.settings.model import Settings
from sglang_diffusion_routing.settings.sources import load

__all__ = ["STATE_AUTO", "TIMEOUT", "LogFormat", "LogLevel", "OnDisconnect", "RoutingAlgorithm", "Settings", "load"]
