"""Ports for what cannot take any free one by itself."""

import socket
from contextlib import closing


def a_free_port() -> int:
    """Give a port of the loopback address that was free a moment ago."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
