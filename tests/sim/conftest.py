"""Simulated workers in threads of the test's own process, and a client for each."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sglang_diffusion_routing.sim.engine import Turn
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings


class Running:
    """A worker and a client that speaks to it."""

    def __init__(self, sim: SimInThread, client: httpx2.Client) -> None:
        self.sim = sim
        self.client = client
        self.get = client.get
        self.post = client.post

    def image(self, *, timeout_s: float = 30.0, **changes: Any) -> httpx2.Response:
        body = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 4, "seed": 1, "response_format": "b64_json"}
        return self.post("/v1/images/generations", json=body | changes, timeout=timeout_s)

    def rollout(self, **changes: Any) -> httpx2.Response:
        body = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 4, "seed": 1}
        return self.post("/rollout/generate", json=body | changes)

    def video(self, **changes: Any) -> httpx2.Response:
        body = {"prompt": "a cat", "size": "64x64", "num_frames": 5, "num_inference_steps": 2, "seed": 1}
        return self.post("/v1/videos", json=body | changes)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the engine busy during the block, so that all that is asked for meanwhile waits in its queue."""
        self.post("/get_weights_checksum", json={}).raise_for_status()  # the engine starts with its first work
        started, release = threading.Event(), threading.Event()

        def work(_turn: Turn) -> None:
            started.set()
            release.wait(30.0)

        self.sim.worker.engine.submit("held", work)
        assert started.wait(10.0)
        try:
            yield
        finally:
            release.set()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.get("/sim/state").json()
        return state

    def checksums(self) -> dict[str, str]:
        checksums: dict[str, str] = self.post("/get_weights_checksum", json={}).json()
        return checksums


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start workers with given settings; they end with the test."""
    with ExitStack() as stack:

        def run(**settings: Any) -> Running:
            settings.setdefault("output_dir", tmp_path / "outputs")
            sim = stack.enter_context(SimInThread(SimSettings(**settings)))
            # no connection is used twice: a worker closes one after an unhandled error, without saying so
            limits = httpx2.Limits(max_keepalive_connections=0)
            return Running(sim, stack.enter_context(httpx2.Client(base_url=sim.url, timeout=30.0, limits=limits)))

        yield run


@pytest.fixture
def sim(start: Start) -> Running:
    return start()


@pytest.fixture
def wan(start: Start) -> Running:
    return start(model="wan")
