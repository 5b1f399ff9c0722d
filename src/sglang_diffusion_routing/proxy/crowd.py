"""Count clients' connections, all together and by address, and say which are too many."""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import lru_cache

from sglang_diffusion_routing.errors import RouterError, TooManyConnections, TooManyConnectionsOfClient

REFUSALS_AT_ONCE = 256
"""Connections above the limit that are told so; they close within two seconds."""
REFUSALS_PER_CLIENT = 16


class Crowd:
    """Who is there.

    Args:
        limit: connections open at the same time. per_client: of them, those of one client; 0 for no limit.

    Attributes:
        now: connections that are open, those in a TLS handshake and those that are being refused included.
    """

    def __init__(self, limit: int, per_client: int) -> None:
        self._limit = limit
        self._per_client = per_client
        self._by_client: Counter[str] = Counter()
        self.now = 0

    def enter(self, address: str) -> None:
        """Count a connection in."""
        self.now += 1
        if self._per_client:
            self._by_client[client_of(address)] += 1

    def leave(self, address: str) -> None:
        """Count it out."""
        self.now -= 1
        if self._per_client:
            client = client_of(address)
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

    def excess(self, address: str, *, speaks_for_many: bool) -> RouterError | None:
        """Say why the last connection of this address is one too many."""
        if self.now > self._limit:
            return TooManyConnections(self._limit)
        if self._per_client and not speaks_for_many and self._by_client[client_of(address)] > self._per_client:
            return TooManyConnectionsOfClient(self._per_client)
        return None

    def is_flooded(self, address: str) -> bool:
        """Tell whether there is so much excess that even saying so costs too much."""
        if self.now > self._limit + REFUSALS_AT_ONCE:
            return True
        return bool(self._per_client) and self._by_client[client_of(address)] > self._per_client + REFUSALS_PER_CLIENT


@lru_cache(maxsize=4096)
def client_of(address: str) -> str:
    """Give who is behind an address: of IPv6 a network of 64 bits, since one host has as many addresses as it likes."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))
