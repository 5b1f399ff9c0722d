"""Say in a few lines what of the router is open to whom, and which flag would close it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sglang_diffusion_routing.settings import Settings


@dataclass(frozen=True, slots=True)
class _Audience:
    """Who may do something. flag: narrows it; None where nothing has to."""

    who: str
    flag: str | None = None

    @property
    def line(self) -> str:
        return self.who if self.flag is None else f"{self.who} ({self.flag})"


def statement(settings: Settings) -> list[str]:
    """Give at most six lines of at most 60 columns, for whoever has started the router."""
    control_host = settings.host if settings.admin_port is None else settings.admin_host
    has_api, has_admin = _has_keys(settings)
    parts = {
        "work": _audience(settings, settings.host, "an API key" if has_api else None, "--api-key-file"),
        "looking": _audience(settings, control_host, "an API key" if has_api else None, "--api-key-file"),
        "control": _control(settings, control_host, has_api=has_api, has_admin=has_admin),
        "workers": _Audience("at listed addresses") if settings.allow_worker else _anywhere(control_host),
    }
    if settings.tls_cert is not None:
        parts["bytes"] = _Audience("encrypted")
    elif not (_is_loopback(settings.host) and _is_loopback(control_host)):
        parts["bytes"] = _Audience("in the clear", "--tls-cert")
    together: dict[_Audience, list[str]] = {}
    for part, audience in parts.items():
        together.setdefault(audience, []).append(part)
    return [f"  {', '.join(names)}: {audience.line}" for audience, names in together.items()]


def is_control_open(settings: Settings) -> bool:
    """Tell whether anybody on the network may change the fleet."""
    host = settings.host if settings.admin_port is None else settings.admin_host
    return not (any(_has_keys(settings)) or settings.tls_client_ca or _is_loopback(host))


def _has_keys(settings: Settings) -> tuple[bool, bool]:
    return bool(settings.api_key or settings.api_key_file), bool(settings.admin_key or settings.admin_key_file)


def _control(settings: Settings, host: str, *, has_api: bool, has_admin: bool) -> _Audience:
    if has_admin:
        return _audience(settings, host, "the admin key", "")
    if has_api:
        # Whoever generates may steer as well.
        return _Audience(_audience(settings, host, "an API key", "").who, "--admin-key-file")
    return _audience(settings, host, None, "--admin-key-file")


def _audience(settings: Settings, host: str, key: str | None, flag: str) -> _Audience:
    if settings.tls_client_ca is not None:
        return _Audience("with a certificate" if key is None else f"with certificate and {key.split(maxsplit=1)[1]}")
    if key is not None:
        return _Audience(f"with {key}")
    if _is_loopback(host):
        return _Audience("open to this machine")
    return _Audience("open to the network", flag)


def _anywhere(control_host: str) -> _Audience:
    """Who may register workers may make the router connect anywhere."""
    return _Audience("at any address", None if _is_loopback(control_host) else "--allow-worker")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
