import pytest

from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from sglang_diffusion_routing.proxy.shared import Tunnels

pytestmark = pytest.mark.core


class Told(Tunnel):
    """A tunnel without ends, which writes down what it is told."""

    def __init__(self, tunnels: Tunnels) -> None:
        self.told: list[tuple[object, ...]] = []
        self._tunnels = tunnels

    def tick(self, now_s: float, idle_s: float) -> None:
        self.told.append(("tick", now_s, idle_s))
        self._tunnels.discard(self)

    def restart_elsewhere(self) -> None:
        self.told.append(("restart",))
        self._tunnels.discard(self)


def test_tunnels_are_counted_as_they_come_and_go() -> None:
    counters = DataPlaneCounters()
    tunnels = Tunnels(counters)
    one, other = Told(tunnels), Told(tunnels)
    tunnels.add(one)
    tunnels.add(other)
    assert (len(tunnels), counters.tunnels, counters.tunnels_now) == (2, 2, 2)
    tunnels.discard(one)
    tunnels.discard(one)
    assert (len(tunnels), counters.tunnels, counters.tunnels_now) == (1, 2, 1)


def test_each_is_told_once_though_it_leaves_at_that() -> None:
    tunnels = Tunnels(DataPlaneCounters())
    ticked = [Told(tunnels) for _ in range(3)]
    for tunnel in ticked:
        tunnels.add(tunnel)
    tunnels.tick(5.0, 60.0)
    assert [tunnel.told for tunnel in ticked] == [[("tick", 5.0, 60.0)]] * 3
    restarted = [Told(tunnels) for _ in range(3)]
    for tunnel in restarted:
        tunnels.add(tunnel)
    tunnels.restart_all()
    assert [tunnel.told for tunnel in restarted] == [[("restart",)]] * 3
    assert len(tunnels) == 0
