"""The keys that clients show: read from a request, and compared without a hint of how close a wrong one is."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from enum import Enum
from hashlib import sha256

from sglang_diffusion_routing.http1.request_head import RequestHead

CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
"""Fields of a request in which a key may stand."""
SHOWN_DIGITS = 8
"""Of a key's digest, in logs: enough to tell a handful of keys apart, and no help in finding one."""


class Role(Enum):
    """What a key opens."""

    API = "api"
    """Work, and looking at the fleet; where there is no admin key, all."""
    ADMIN = "admin"
    """All."""


class Keys:
    """The keys of one time, as digests: what a dump of memory, a traceback or `repr` could show is of no use."""

    def __init__(self, api: Iterable[str] = (), admin: Iterable[str] = ()) -> None:
        # The admin keys first: one that stands in both lists opens all.
        self._known = [(_digest(key.encode()), Role.ADMIN) for key in admin]
        self._known += [(_digest(key.encode()), Role.API) for key in api]
        roles = {role for _, role in self._known}
        self.has_api = Role.API in roles
        self.has_admin = Role.ADMIN in roles

    def __bool__(self) -> bool:
        return bool(self._known)

    def role_of(self, credential: bytes) -> Role | None:
        """Tell what a credential opens; None for nothing.

        Every key is compared, digest with digest, whichever fits: the time that it takes says nothing.
        """
        digest = _digest(credential)
        fits = [role for known, role in self._known if hmac.compare_digest(digest, known)]
        return fits[0] if fits else None


def credentials(head: RequestHead) -> list[bytes]:
    """Give the keys that a request shows: `Authorization: Bearer KEY` and `x-api-key: KEY`."""
    found: list[bytes] = []
    for line in head.lines:
        name, _, value = line.partition(b":")
        lower, value = name.lower(), value.strip()
        if lower == b"x-api-key":
            found.append(value)
        elif lower == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.append(key.strip())
    return [key for key in found if key]


def shown(credential: bytes) -> str:
    """Give what a log may say of a key."""
    return _digest(credential).hex()[:SHOWN_DIGITS]


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()
