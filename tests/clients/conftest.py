"""One router as a process, in front of workers that make images, edits and videos, for the clients that people have."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.router import RouterProcess

MODELS = ("sd3", "edit", "wan")
Starting = Callable[..., RouterProcess]


@pytest.fixture(scope="package")
def workers() -> Iterator[dict[str, SimInThread]]:
    with ExitStack() as stack:
        yield {model: stack.enter_context(SimInThread(SimSettings(model=model))) for model in MODELS}


@pytest.fixture(scope="package")
def router(workers: dict[str, SimInThread]) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url for worker in workers.values()]) as router:
        router.wait_until_healthy(len(workers))
        yield router


@pytest.fixture(scope="package")
def url(router: RouterProcess) -> str:
    return f"http://127.0.0.1:{router.port}"


@pytest.fixture
def starting() -> Iterator[Starting]:
    """Give what starts further routers, each with its own flags and workers."""
    with ExitStack() as stack:

        def start(*flags: str, workers: int = 1, **settings: Any) -> RouterProcess:
            sims = [stack.enter_context(SimInThread(SimSettings(**settings))) for _ in range(workers)]
            router = stack.enter_context(RouterProcess([sim.url for sim in sims], *flags))
            router.wait_until_healthy(workers)
            return router

        yield start
