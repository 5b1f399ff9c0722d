"""Which key a worker wants: patterns of addresses, each with the key that workers at such an address are sent."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidField

_PATTERN = re.compile(r"(?:(https?)://)?(\[[0-9a-f:.]+\](?:/\d+)?|[^\s:/\[\]]+(?:/\d+)?)(?::(\d{1,5}))?/?")
_NAME = re.compile(r"[a-z0-9*._-]+")
KEY = re.compile(r"[\x21-\x7e]+")
"""What may stand behind `Bearer`: visible ASCII (RFC 6750 §2.1 has less, and engines are not that strict)."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Entry:
    """scheme, port: None for any. A host is in the network, or else its name fits the pattern."""

    scheme: str | None
    network: _Network | None
    name: str
    port: int | None
    key: str = field(repr=False)

    def fits(self, url: WorkerUrl) -> bool:
        if self.scheme not in {None, url.scheme} or self.port not in {None, url.port}:
            return False
        if self.network is None:
            return fnmatchcase(url.host, self.name)
        try:
            return ipaddress.ip_address(url.host) in self.network
        except ValueError:
            return False


# Compared as an object: it is a key of memoised look-ups, and is replaced whole.
@dataclass(frozen=True, slots=True, eq=False)
class WorkerKeys:
    """Keys of workers by their addresses; the first pattern that fits counts."""

    _entries: tuple[_Entry, ...] = ()

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> WorkerKeys:
        """Read patterns with their keys.

        A pattern is a worker's URL, or its host with or without a port; `*` in a host stands for anything, and an
        address may be a network: `http://gpu-1:30000`, `gpu-*:30000`, `10.0.0.0/8`, `[fd00::]/8`, `*`.

        Raises:
            InvalidField: a pattern or a key is malformed; the sentence does not repeat the key.
        """
        return cls(tuple(_entry(pattern, key) for pattern, key in pairs))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def find(self, url: WorkerUrl) -> str | None:
        """Give the key of the worker at this address; None where none fits."""
        return next((entry.key for entry in self._entries if entry.fits(url)), None)


def _entry(pattern: str, key: str) -> _Entry:
    match = _PATTERN.fullmatch(pattern.strip().lower())
    if match is None:
        raise _malformed(pattern)
    if not KEY.fullmatch(key):
        raise InvalidField("worker_keys", f"the key for {pattern!r} must be visible ASCII characters")
    scheme, host, port = match.groups()
    if port is not None and not 1 <= int(port) <= 65535:
        raise _malformed(pattern)
    if port is None and scheme is not None:
        port = "443" if scheme == "https" else "80"
    network = _network(pattern, host)
    if network is None and not _NAME.fullmatch(host):
        raise _malformed(pattern)
    return _Entry(scheme, network, host, None if port is None else int(port), key)


def _network(pattern: str, host: str) -> _Network | None:
    address, slash, length = host.partition("/")
    try:
        return ipaddress.ip_network(address.strip("[]") + slash + length)
    except ValueError:
        if slash or address.startswith("["):
            raise _malformed(pattern) from None
        return None


def _malformed(pattern: str) -> InvalidField:
    return InvalidField(
        "worker_keys", f"{pattern!r} is no pattern of workers, such as http://gpu-1:30000, gpu-*, 10.0.0.0/8 or *"
    )
