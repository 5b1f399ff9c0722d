"""Tests of reserved ports."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from launchers.processes import python
from sglang_diffusion_routing.launchers.ports import Ports, PortTaken
from sglang_diffusion_routing.sim.server import bound
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.loopback


@pytest.fixture
def ports() -> Iterator[Ports]:
    held = Ports()
    yield held
    held.close()


def pair() -> int:
    """Find two neighbours that are free."""
    with bound(SimSettings(broker=True)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "127.0.0.2"])
def test_a_port_that_somebody_listens_on_is_taken(ports: Ports, address: str) -> None:
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            ports.take(port)
        assert caught.value.port == port


def test_an_ipv6_port_that_somebody_listens_on_is_taken(ports: Ports) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener, pytest.raises(PortTaken):
        ports.take(listener.getsockname()[1])


def test_a_reserved_port_is_nobody_elses_but_a_server_may_listen_on_it(ports: Ports) -> None:
    port = pair()
    ports.take(port, port + 1)
    with socket.socket() as outsider, pytest.raises(OSError, match="in use"):
        outsider.bind(("127.0.0.1", port))
    with bound(SimSettings(port=port, broker=True, strict_ports=True)):
        pass
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_another_router_does_not_get_it_until_it_is_given_back(ports: Ports) -> None:
    port = pair()
    ports.take(port)
    other = Ports()
    with pytest.raises(PortTaken):
        other.take(port)
    ports.close()
    other.take(port)
    other.close()


def test_either_all_are_taken_or_none(ports: Ports) -> None:
    port = pair()
    other = Ports()
    other.take(port + 1)
    with pytest.raises(PortTaken):
        ports.take(port, port + 1)
    other.take(port)
    other.close()


def test_the_first_free_ones_are_found(ports: Ports) -> None:
    port = pair()
    other = Ports()
    other.take(port)
    assert ports.first_free([port, port + 1]) == port + 1
    assert ports.first_free([port, port + 1]) is None
    assert ports.first_free([65_535], together=2) is None
    other.close()


def test_routers_that_start_at_once_get_different_ports() -> None:
    source = """
import sys
from sglang_diffusion_routing.launchers.ports import Ports
ports = Ports()
sys.stdin.readline()
print(*[ports.first_free(range(28100, 28200, 2), 2) for _ in range(8)], flush=True)
sys.stdin.readline()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    routers = [
        subprocess.Popen(python(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(3)
    ]
    for word in ("go", "end"):
        for router in routers:
            assert router.stdin is not None
            router.stdin.write(f"{word}\n")
            router.stdin.flush()
        if word == "go":
            lines = [router.stdout.readline().split() for router in routers if router.stdout is not None]
    for router in routers:
        router.communicate()
    taken = [port for line in lines for port in line]
    assert "None" not in taken
    assert len(set(taken)) == 24
