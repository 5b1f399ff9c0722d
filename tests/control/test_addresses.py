import asyncio
import time

import pytest
import uvloop

from sglang_diffusion_routing.control.addresses import Addresses
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from support.deadlines import PATIENCE_S

pytestmark = pytest.mark.core


class Names:
    """What host names resolve to; every look-up is written down, and one of a slow name never ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> None:
        self.asked: list[str] = []

        async def getaddrinfo(_: object, host: str, port: int, **__: object) -> list[object]:
            self.asked.append(host)
            if host.startswith("slow"):
                await asyncio.get_running_loop().create_future()
            if host not in known:
                raise OSError("unknown name")
            return [(2, 1, 6, "", (address, port)) for address in known[host]]

        monkeypatch.setattr(uvloop.Loop, "getaddrinfo", getaddrinfo, raising=True)


async def check(*urls: str, allowed: str = "", limit_s: float = PATIENCE_S) -> None:
    await Addresses(AllowList.parse(filter(None, [allowed])), limit_s=limit_s).check([*map(WorkerUrl.parse, urls)])


async def test_a_name_that_resolves_to_a_forbidden_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, good=["10.0.0.1"], innocent=["10.0.0.1", "169.254.169.254"])
    with pytest.raises(InvalidWorkerUrl, match=r"resolves to 169\.254\.169\.254, which is the metadata service") as why:
        await check("http://good:1", "http://innocent:1")
    assert why.value.facts == {"url": "http://innocent:1"}


async def test_a_name_that_does_not_resolve_may_do_so_later(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch)
    await check("http://nobody:1")
    with pytest.raises(InvalidWorkerUrl, match="is not on the list of allowed workers"):
        await check("http://nobody:1", allowed="10.0.0.0/8")


async def test_every_name_is_asked_for_once_and_addresses_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, a=["10.0.0.1"], b=["10.0.0.2"])
    await check("http://a:1", "http://b:1", "http://a:2", "http://10.0.0.3:1", "http://[fd00::1]:1")
    assert sorted(names.asked) == ["a", "b"]


async def test_names_that_take_too_long_count_as_unknown_and_hold_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Names(monkeypatch, a=["10.0.0.1"])
    began_s = time.monotonic()
    await check("http://slow-1:1", "http://slow-2:1", "http://a:1", limit_s=0.05)
    assert time.monotonic() - began_s < PATIENCE_S
    with pytest.raises(InvalidWorkerUrl) as why:
        await check("http://a:1", "http://slow-1:1", allowed="10.0.0.0/8", limit_s=0.05)
    assert why.value.facts == {"url": "http://slow-1:1"}


@pytest.mark.parametrize(
    ("allowed", "url", "good"),
    [
        ("127.0.0.0/8", "http://127.0.0.1:1", True),
        ("10.0.0.0/8", "http://127.0.0.1:1", False),
        ("gpu", "http://gpu:1", True),
        ("127.0.0.0/8", "http://gpu:1", False),
        ("127.0.0.0/8", "http://here:1", True),
        ("127.0.0.1", "http://both:1", False),
    ],
)
async def test_only_allowed_hosts_are_let_in(
    monkeypatch: pytest.MonkeyPatch, allowed: str, url: str, good: bool
) -> None:
    Names(monkeypatch, here=["127.0.0.1"], both=["127.0.0.1", "10.0.0.1"])
    if good:
        await check(url, allowed=allowed)
    else:
        with pytest.raises(InvalidWorkerUrl, match="is not on the list of allowed workers"):
            await check(url, allowed=allowed)
