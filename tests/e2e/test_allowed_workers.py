"""No way in leads to an address that is not allowed: it gets no packet, whoever names it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import reply, serving
from support.running import eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 2, "seed": 1}


class Forbidden:
    """A service beside the workers, which counts those who knock."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        host, port = listener.getsockname()
        self.url = f"http://{host}:{port}"
        self.port = port

    def is_untouched(self) -> bool:
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False


@contextmanager
def forbidden(host: str) -> Iterator[Forbidden]:
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen(16)
        listener.setblocking(False)
        yield Forbidden(listener)


@pytest.fixture
def place() -> Iterator[Forbidden]:
    with forbidden("127.0.0.2") as place:
        yield place


@pytest.fixture(scope="module")
def worker() -> Iterator[SimInThread]:
    with SimInThread() as worker:
        yield worker


@pytest.fixture
async def router(worker: SimInThread) -> AsyncIterator[Any]:
    async with running(worker.url, allow_worker="127.0.0.1") as router:
        yield router


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/workers", {"url": "URL"}),
        ("POST", "/workers?url=URL", None),
        ("POST", "/add_worker?url=URL", None),
        ("PUT", "/workers", {"urls": ["URL"]}),
    ],
)
async def test_no_route_registers_it(
    router: Any, place: Forbidden, method: str, target: str, body: dict[str, Any] | None
) -> None:
    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(each) for key, each in value.items()}
        return [named(each) for each in value] if isinstance(value, list) else value.replace("URL", place.url)

    status, error = await router.ask(method, named(target), json=None if body is None else named(body))
    assert (status, error["code"]) == (400, "invalid_worker_url")
    assert place.is_untouched()


async def test_a_port_that_is_not_listed_is_as_good_as_another_address(worker: SimInThread) -> None:
    with forbidden("127.0.0.1") as beside:
        async with running(worker.url, allow_worker=worker.url.removeprefix("http://")) as router:
            status, error = await router.post("/workers", {"url": beside.url})
            assert (status, error["code"]) == (400, "invalid_worker_url")
            assert (await router.post("/v1/images/generations", IMAGE))[0] == 200
        assert beside.is_untouched()


async def test_a_list_that_is_followed_does_not_bring_it_in(
    worker: SimInThread, place: Forbidden, tmp_path: Path
) -> None:
    listed = tmp_path / "workers"
    listed.write_text(f"{place.url}\n{worker.url}\n")
    async with running(allow_worker="127.0.0.1", discover=f"file:{listed}") as router:
        await router.until_status(worker.url, "active")
        assert list(await router.statuses()) == [worker.url]
    assert place.is_untouched()


async def test_a_restored_state_does_not_bring_it_back(worker: SimInThread, place: Forbidden, tmp_path: Path) -> None:
    """It was allowed when it was registered, and is not any more."""
    state = str(tmp_path / "state.db")
    async with running(worker.url, place.url, state=state, probe_timeout_s=0.1, busy_grace_s=0):
        assert not place.is_untouched()
    while not place.is_untouched():
        pass
    async with running(allow_worker="127.0.0.1", state=state, resume=True) as router:
        await router.until_status(worker.url, "active")
        await eventually(router.statuses, lambda statuses: statuses.get(place.url, "quarantined") == "quarantined")
        status, _ = await router.post("/release_memory_occupation")
        assert status == 200
    assert place.is_untouched()


async def test_no_redirect_of_a_worker_is_followed(place: Forbidden) -> None:
    """Neither of a call of the router's own nor of work; a probe takes nothing but a 200 for well."""
    redirect = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {place.url}/x\r\nContent-Length: 0\r\n\r\n"

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(200, b"{}") if head.startswith(b"GET /health") else redirect.encode())

    async with serving(elsewhere) as url, running(str(url)) as router:
        await router.until_status(str(url), "active")
        answer = await router.client.get("/stats", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, f"{place.url}/x")
        _, sums = await router.post("/get_weights_checksum")
        assert [row["status_code"] for row in sums["results"]] == [307]
    assert place.is_untouched()
