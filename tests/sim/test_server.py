import contextlib
import re
import socket
import time
from urllib.parse import urlsplit

import pytest

from sglang_diffusion_routing.sim.server import PortTaken, bound, config_of, url_of, with_port
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.worker import Worker
from sim.conftest import Running

pytestmark = pytest.mark.loopback


def test_a_free_port_is_taken_and_told() -> None:
    with bound(SimSettings()) as listener:
        port = listener.getsockname()[1]
        assert url_of(SimSettings(), listener) == f"http://127.0.0.1:{port}"
        assert url_of(SimSettings(ssl_certfile="c"), listener) == f"https://127.0.0.1:{port}"
        assert with_port(SimSettings(), listener) == SimSettings(port=port)


def test_a_taken_port_is_left_for_another_without_a_word() -> None:
    with bound(SimSettings()) as first:
        port = first.getsockname()[1]
        with bound(SimSettings(port=port)) as second:
            assert second.getsockname()[1] > port


def test_a_taken_port_is_an_error_when_ports_are_strict() -> None:
    with bound(SimSettings()) as first:
        port = first.getsockname()[1]
        with (
            pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            bound(SimSettings(port=port, strict_ports=True)),
        ):
            pass


def test_the_broker_takes_the_port_above() -> None:
    with bound(SimSettings(broker=True)) as listener:
        port = listener.getsockname()[1] + 1
        with pytest.raises(PortTaken), bound(SimSettings(port=port, strict_ports=True)):
            pass


def test_the_scheduler_and_the_process_group_have_ports_of_their_own() -> None:
    with bound(SimSettings()) as free:
        taken = free.getsockname()[1]
        with bound(SimSettings(master_port=taken)):  # it moves away without a word, as the others do
            pass
        with pytest.raises(PortTaken), bound(SimSettings(scheduler_port=taken, strict_ports=True)):
            pass


def test_the_server_is_the_one_of_a_real_worker() -> None:
    config = config_of(Worker(SimSettings()))
    assert (config.timeout_keep_alive, config.timeout_graceful_shutdown, config.lifespan) == (5, None, "on")


def connect(sim: Running) -> socket.socket:
    target = urlsplit(sim.sim.url)
    assert target.hostname is not None
    return socket.create_connection((target.hostname, target.port or 0), timeout=20.0)


def until_closed(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_only_a_connection_that_has_spoken_is_closed_when_idle(sim: Running) -> None:
    with connect(sim) as silent, connect(sim) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        started_s = time.monotonic()
        assert until_closed(idle).endswith(b'{"status":"ok"}')
        assert 4.5 < time.monotonic() - started_s < 9.0
        silent.settimeout(0.5)
        with pytest.raises(TimeoutError):
            silent.recv(1)
        silent.settimeout(10.0)
        sim.sim.crash()
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


@pytest.mark.parametrize(
    ("request_bytes", "reply_start"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (
            (
                b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n{}"
            ),
            b"HTTP/1.1 100 Continue\r\n",
        ),
        (
            (
                b"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            ),
            b"HTTP/1.1 422 Unprocessable",
        ),
        (
            b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 60_000 + b"\r\nconnection: close\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ),
    ],
)
def test_it_speaks_http_as_uvicorn_with_h11_does(sim: Running, request_bytes: bytes, reply_start: bytes) -> None:
    with connect(sim) as connection:
        connection.sendall(request_bytes)
        assert until_closed(connection).startswith(reply_start)


def test_pipelined_requests_are_answered_in_order(sim: Running) -> None:
    with connect(sim) as connection:
        connection.sendall(
            b"GET /liveness HTTP/1.1\r\nhost: x\r\n\r\nGET /nonexist HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        reply = until_closed(connection)
    assert re.findall(rb"HTTP/1.1 \d+", reply) == [b"HTTP/1.1 200", b"HTTP/1.1 404"]
