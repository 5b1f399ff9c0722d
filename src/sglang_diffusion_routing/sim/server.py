"""A simulated worker behind a real HTTP server: uvicorn with h11, as SGLang starts its own."""

import contextlib
import logging
import os
import socket
import ssl
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sglang_diffusion_routing.sim.app import build
from sglang_diffusion_routing.sim.middleware import ABORT
from sglang_diffusion_routing.sim.settings import READY, SimSettings
from sglang_diffusion_routing.sim.worker import Worker

PORTS_TRIED = 100

# Unhandled errors are part of the act, and their traces would drown a test's output. Its own logger, so that another
# uvicorn in this process still speaks.
_silent = logging.getLogger("sglang_diffusion_routing.sim.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)


class PortTaken(OSError):
    """The port, or the one above it for the broker, is in use."""


class Http(H11Protocol):
    """h11 that is silent unless told otherwise, and lets the application abort the connection.

    asked: whether a request has come on it.
    """

    asked = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner_app = self.app
        self.app = self._linked
        if not self.config.access_log:
            self.logger = _silent
            self.access_log = False

    async def _linked(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked = True
        scope[ABORT] = self.transport.abort
        await self._inner_app(scope, receive, send)


class _WebSocket(WebSocketsSansIOProtocol):
    """WebSockets that are silent unless told otherwise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.config.access_log:
            self.logger = _silent


class _Announced(uvicorn.Server):
    """uvicorn that prints one line once it listens."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"{READY}{self._url}\n")
        sys.stdout.flush()


def serve(settings: SimSettings) -> None:
    """Serve until SIGTERM or SIGINT: the listener closes at once, running requests end, then it returns.

    Prints one line when it listens: `sim worker ready on http://HOST:PORT`.

    Raises:
        PortTaken: with `strict_ports`, or when no port near the wanted one is free.
    """
    with bound(settings) as listener:
        worker = Worker(with_port(settings, listener), exit_process=_exit)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises SIGINT again once it has ended well
            _Announced(config_of(worker), url_of(worker.settings, listener)).run(sockets=[listener])


def _exit() -> None:
    os._exit(1)  # no clean end: nothing is flushed, sockets just close


def config_of(worker: Worker) -> uvicorn.Config:
    """Configure uvicorn for a worker: h11, five seconds of keep-alive, no deadline for running requests at the end."""
    settings = worker.settings
    verbose = settings.verbose
    return uvicorn.Config(
        build(worker),
        http=Http,
        ws=_WebSocket,
        lifespan="on",
        access_log=verbose,
        log_config=uvicorn.config.LOGGING_CONFIG if verbose else None,
        timeout_keep_alive=5,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_NONE if settings.ssl_ca_certs is None else ssl.CERT_REQUIRED,
    )


def with_port(settings: SimSettings, listener: socket.socket) -> SimSettings:
    """Give the settings with the port that was taken."""
    return settings.model_copy(update={"port": listener.getsockname()[1]})


def url_of(settings: SimSettings, listener: socket.socket) -> str:
    """Give the address to reach a listener at."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.ssl_certfile is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.contextmanager
def bound(settings: SimSettings) -> Iterator[socket.socket]:
    """Take the wanted port, or without `strict_ports` the next free one, and the broker's port above it.

    Raises:
        PortTaken: none is free.
    """
    refusal: OSError | None = None
    for port in _candidates(settings):
        with contextlib.ExitStack() as stack:
            try:
                listener = stack.enter_context(_listen(settings.host, port))
                if settings.broker:
                    stack.enter_context(_listen(settings.host, listener.getsockname()[1] + 1))
                for wanted in filter(None, (settings.scheduler_port, settings.master_port)):
                    stack.enter_context(_internal(settings, wanted))
            except OSError as error:
                refusal = error
                continue
            yield listener
            return
    reason = refusal.strerror if refusal is not None else "no port to try"
    raise PortTaken(f"cannot listen on {settings.host}:{settings.port}: {reason}") from refusal


def _internal(settings: SimSettings, wanted: int) -> socket.socket:
    """Take a port that no client sees, or without `strict_ports` any other."""
    try:
        return _listen(settings.host, wanted)
    except OSError:
        if settings.strict_ports:
            raise
        return _listen(settings.host, 0)


def _candidates(settings: SimSettings) -> Iterable[int]:
    if settings.port == 0:  # each try is another free port, whose neighbour may be free for the broker
        return [0] * PORTS_TRIED
    last = settings.port if settings.strict_ports else min(settings.port + PORTS_TRIED, 65535)
    return range(settings.port, last + 1)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
