"""Check the values of settings that a type cannot say.

Each rule takes a value of its setting's type and gives it in its one form, or raises ValueError with a sentence.
"""

import re
from urllib.parse import urlsplit

from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.discovery import parse_source
from sglang_diffusion_routing.core.shares import parse_weights
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, InvalidWorkerUrl
from sglang_diffusion_routing.settings.choices import TENANT_FIELD, TIMEOUT

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_NO_TENANT = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "traceparent",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    }
)
"""Fields that say nothing of the client: of a connection (RFC 9110 §7.6.1), of one request, or of the router."""


def worker_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Bring worker URLs to the form that identifies a worker; each once, in the order given."""
    try:
        return tuple(dict.fromkeys(str(WorkerUrl.parse(url)) for url in urls))
    except InvalidWorkerUrl as error:
        raise ValueError(error.message) from None


def allow_worker(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is neither a host name, an address nor a network, and ports that are none."""
    try:
        AllowList.parse(entries)
    except InvalidField as error:
        raise ValueError(error.message) from None
    return entries


def discover(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Bring sources to one form, each once, and refuse what is none."""
    try:
        return tuple(dict.fromkeys(str(parse_source(source)) for source in sources))
    except InvalidField as error:
        raise ValueError(error.message) from None


def tenant_field(name: str) -> str:
    """Refuse what is no name of a field, and fields that say nothing of the client or never reach the router."""
    lower = name.lower()
    reserved = lower.startswith("x-sglang-router-") and lower != TENANT_FIELD
    if not _FIELD_NAME.fullmatch(lower) or reserved or lower in _NO_TENANT:
        raise ValueError(f"must name a field of a request that tells clients apart, not {name!r}")
    return lower


def tenant_weights(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse weights that cannot be read."""
    try:
        parse_weights(entries)
    except InvalidField as error:
        raise ValueError(error.message) from None
    return entries


def retry_on(failures: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Refuse what is no failure of a worker."""
    unknown = [failure for failure in failures if failure not in {500, 502, 503, 504, TIMEOUT}]
    if unknown:
        raise ValueError(f"must hold none but 500, 502, 503, 504 and {TIMEOUT}, not {unknown[0]}")
    return failures


def otlp_endpoint(url: str | None) -> str | None:
    """Refuse what is no address of a collector, and what should not be shown."""
    if url is None:
        return None
    if "@" in url:
        raise ValueError("must hold no name and password; OTEL_EXPORTER_OTLP_HEADERS is the place for a key")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(f"must be the address of a collector, like http://127.0.0.1:4318, not {url!r}")
    return url
