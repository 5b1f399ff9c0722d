"""A worker and a clean loop for every test of the wire."""

from collections.abc import AsyncIterator

import pytest

from http1.hearing import SETTINGS
from http1.listening import Listener, listening
from http1.peers import FakeWorker, fake_worker
from http1.relaying import Relay, relaying
from support.clean_loop import clean_loop


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with fake_worker() as worker:
        yield worker


@pytest.fixture
async def other() -> AsyncIterator[FakeWorker]:
    async with fake_worker() as other:
        yield other


@pytest.fixture
async def relay(worker: FakeWorker) -> AsyncIterator[Relay]:
    async with relaying(worker) as relay:
        yield relay


@pytest.fixture
async def pair(worker: FakeWorker, other: FakeWorker) -> AsyncIterator[Relay]:
    async with relaying(worker, other) as relay:
        yield relay


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening(settings=SETTINGS) as listener:
        yield listener


@pytest.fixture(autouse=True)
async def _nothing_goes_wrong_unseen() -> AsyncIterator[None]:
    async with clean_loop():
        yield
