"""Reserve ports, so that nobody else has them when a worker comes to listen.

A port is reserved twice. Among routers, by an abstract Unix socket named after it (unix(7)): one process at a time has
the name, the kernel gives it back when that process ends, and it is known exactly where the port is, in the network
namespace, to all users. Against everybody else, by a TCP socket that is bound to the port and does not listen: the
kernel gives it to no connection and no other program, while a worker that sets SO_REUSEADDR, as servers do, may still
listen on it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack

_NAME = "\0sglang-d-router/port/{}"
LAST_PORT = 65_535


class PortTaken(Exception):
    """Somebody has a port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is in use")
        self.port = port


class Ports:
    """The ports that one router has reserved."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def take(self, *ports: int) -> None:
        """Reserve ports, all or none.

        Raises:
            PortTaken: one of them is in use or reserved.
        """
        with ExitStack() as taken:
            for port in ports:
                self._take(taken, port)
            self._held.push(taken.pop_all())

    def first_free(self, candidates: Iterable[int], together: int = 1) -> int | None:
        """Reserve the first of `candidates` that is free, with the `together - 1` ports above it; None if none is."""
        for first in candidates:
            if first + together - 1 > LAST_PORT:
                return None
            try:
                self.take(*range(first, first + together))
            except PortTaken:
                continue
            return first
        return None

    def close(self) -> None:
        """Give back all of them; safe to repeat."""
        self._held.close()

    @staticmethod
    def _take(stack: ExitStack, port: int) -> None:
        try:
            name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            name.bind(_NAME.format(port))
            # Any address that a worker may choose: this one conflicts with whoever listens on any of them.
            held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("", port))
            _hold_ipv6(stack, port)
        except OSError:
            raise PortTaken(port) from None


def _hold_ipv6(stack: ExitStack, port: int) -> None:
    """Hold a port for IPv6 as well, where there is IPv6."""
    if not socket.has_ipv6:
        return
    try:
        held = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    except OSError:
        return
    held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("::", port))
