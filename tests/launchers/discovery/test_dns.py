"""What a resolver answers, and which workers that makes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.core.discovery import DnsName
from sglang_diffusion_routing.launchers.discovery.dns import DnsReader
from sglang_diffusion_routing.launchers.discovery.reading import Unreadable
from support.deadlines import PATIENCE_S

pytestmark = pytest.mark.core
NAME = DnsName("workers.test", 30000)


class Resolver:
    """Answers with `addresses`, fails with `error`, or waits for the gate. asked: names that were looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self.error: OSError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@asynccontextmanager
async def reader(limit_s: float = PATIENCE_S) -> AsyncIterator[DnsReader]:
    made = DnsReader(NAME, limit_s=limit_s)
    yield made
    await made.aclose()


async def urls(asked: DnsReader) -> list[str]:
    return [str(named.url) for named in await asked.read()]


async def test_every_address_is_a_worker_in_an_order_that_does_not_rotate(resolver: Resolver) -> None:
    expected = ["http://10.0.0.1:30000", "http://10.0.0.2:30000", "http://[2001:db8::1]:30000"]
    async with reader() as asked:
        for addresses in (["10.0.0.2", "2001:db8::1", "10.0.0.1"], ["2001:db8::1", "10.0.0.1", "10.0.0.2"]):
            resolver.addresses = addresses * 2
            assert await urls(asked) == expected
    assert resolver.asked == ["workers.test"] * 2


async def test_an_address_that_no_worker_may_have_is_left_out_and_named_once(resolver: Resolver) -> None:
    resolver.addresses = ["169.254.169.254", "fe80::1%eth0", "10.0.0.1"]
    with capture_logs() as logs:
        async with reader() as asked:
            for _ in range(2):
                assert await urls(asked) == ["http://10.0.0.1:30000"]
    assert sorted((entry["event"], entry["worker"], entry["source"]) for entry in logs) == [
        ("worker_kept_out", "169.254.169.254", "dns://workers.test:30000"),
        ("worker_kept_out", "fe80::1%eth0", "dns://workers.test:30000"),
    ]


@pytest.mark.parametrize("addresses", [[], ["169.254.169.254"]])
async def test_an_answer_without_a_worker_says_nothing(resolver: Resolver, addresses: list[str]) -> None:
    resolver.addresses = addresses
    async with reader() as asked:
        with pytest.raises(Unreadable, match=r"^names no worker$"):
            await asked.read()


async def test_a_failure_says_nothing_and_the_next_reading_asks_again(resolver: Resolver) -> None:
    resolver.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    async with reader() as asked:
        with pytest.raises(Unreadable, match=r"^does not resolve \(Name or service not known\)$"):
            await asked.read()
        resolver.error, resolver.addresses = None, ["10.0.0.1"]
        assert await urls(asked) == ["http://10.0.0.1:30000"]


async def test_a_resolver_that_hangs_is_not_asked_a_second_time_meanwhile(resolver: Resolver) -> None:
    resolver.gate.clear()
    resolver.addresses = ["10.0.0.1"]
    async with reader(limit_s=0.01) as asked:
        for _ in range(3):
            with pytest.raises(Unreadable, match=r"^did not resolve within 0\.01 s$"):
                await asked.read()
        assert resolver.asked == ["workers.test"]
        resolver.gate.set()
        await asyncio.sleep(0)
        assert await urls(asked) == ["http://10.0.0.1:30000"]


async def test_an_address_resolves_to_itself() -> None:
    asked = DnsReader(DnsName("127.0.0.1", 81), limit_s=PATIENCE_S)
    assert await urls(asked) == ["http://127.0.0.1:81"]
    await asked.aclose()
