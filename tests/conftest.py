"""What every test stands on: the event loop that the router itself runs on."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import settings

from support.authority import Authority

# A busy machine is no reason to fail. What else the profile in force says (on CI the same examples each time) stays.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


UVICORN = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")]


@pytest.fixture(autouse=True)
def uvicorn_logs_as_it_comes() -> None:
    """Undo what the servers of other tests have set for the whole process: the loggers belong to all of them."""
    for logger in UVICORN:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.handlers.clear()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that nobody knows but whom the test tells."""
    return Authority(tmp_path_factory.mktemp("authority"))
