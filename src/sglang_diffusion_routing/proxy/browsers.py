"""Tell what a page of somebody else would have a browser do to the fleet.

A browser sends requests on behalf of any page that it shows. Two things follow, also without keys: such a page may not
change the fleet (cross-site request forgery), and a name that its owner points at this router (DNS rebinding) may not
make the router's replies readable to it. Programs other than browsers are not concerned.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from sglang_diffusion_routing.http1.request_head import RequestHead

_OWN_SITES = frozenset({b"same-origin", b"none"})
_DEFAULT_PORTS = {"http": "80", "https": "443"}
PRIVATE_ENDINGS = (
    ".localhost",  # RFC 6761
    ".test",
    ".local",  # RFC 6762; also Kubernetes' cluster.local
    ".internal",  # reserved by ICANN in 2024
    ".home.arpa",  # RFC 8375
)
"""Names that nobody can register, so that no stranger can point one at this router."""


def is_cross_origin(head: RequestHead, host: bytes) -> bool:
    """Tell whether a page of another origin is behind a request.

    Sec-Fetch-Site is the browser's own word, which no page can forge; browsers send it to https and loopback only.
    Elsewhere they send `Origin` with whatever is no plain reading (Fetch standard, "append a request `Origin` header").

    Args:
        host: by which the client came, its own or a trusted proxy's word.
    """
    site = head.field(b"sec-fetch-site")
    if site is not None:
        return site.lower() not in _OWN_SITES
    origin = head.field(b"origin")
    return origin is not None and not _is_same(origin, host)


def is_by_browser(head: RequestHead) -> bool:
    """Tell whether a browser has sent a request: each of these comes from all of them, and from hardly a program."""
    return (
        head.field(b"sec-fetch-site") is not None
        or head.field(b"origin") is not None
        or head.field(b"accept-language") is not None
        or (head.field(b"user-agent") or b"").startswith(b"Mozilla/")
    )


def is_foreign(host: bytes, own: Collection[str]) -> bool:
    """Tell whether a Host may be a stranger's name for this router.

    Addresses are nobody's names, names of one label and the private endings cannot be had, and `own` lists the rest: a
    name, or with a leading dot all that end so.
    """
    name = _name(host)
    if not name or "." not in name or name.endswith(PRIVATE_ENDINGS):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return not any(name == each or (each.startswith(".") and name.endswith(each)) for each in own)
    return False


def _name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        # An IPv6 address: no name.
        return ""
    return text.partition(":")[0].rstrip(".")


def _is_same(origin: bytes, host: bytes) -> bool:
    scheme, separator, rest = origin.decode("latin-1").lower().partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        # "null": a sandboxed page, a file.
        return False
    default = ":" + _DEFAULT_PORTS[scheme]
    return rest.removesuffix(default) == host.decode("latin-1").lower().removesuffix(default)
