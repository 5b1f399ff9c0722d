"""Tests of what only the asynchronous client has: it is awaited, and can be cancelled."""

import asyncio
import inspect

import pytest

from sglang_diffusion_routing.client import AsyncClient, AsyncJobs, Client, Jobs, Terms
from support.any_client import AnyClient
from support.running import RunningRouter, eventually

pytestmark = pytest.mark.loopback


def calls(kind: type) -> dict[str, str]:
    """Give the public methods of a class with their parameters."""
    return {
        name: str(inspect.signature(method).replace(return_annotation=inspect.Signature.empty))
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in {"close", "aclose"}
    }


@pytest.mark.core
def test_both_clients_have_the_same_calls() -> None:
    assert calls(AsyncClient) == calls(Client)
    assert calls(AsyncJobs) == calls(Jobs)


async def test_the_queue_is_held_for_the_length_of_a_block(router: RunningRouter) -> None:
    async with AsyncClient(str(router.client.base_url)) as client:
        async with client.paused():
            work = asyncio.ensure_future(client.rollout("a", seed=1, width=64, height=64))
            await eventually(lambda: router.get("/workers"), lambda got: got[1]["queue"]["requests"] == 1)
            assert not work.done()
        assert len((await work).samples) == 1


async def test_a_cancelled_rollout_leaves_the_queue(router: RunningRouter) -> None:
    async with AsyncClient(str(router.client.base_url)) as client, client.paused():
        batch = asyncio.ensure_future(
            client.rollout_many(["a", "b"], seed=1, terms=Terms(group="g"), width=64, height=64)
        )
        await eventually(lambda: router.get("/workers"), lambda got: got[1]["queue"]["requests"] == 2)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        await eventually(lambda: router.get("/workers"), lambda got: got[1]["queue"]["requests"] == 0)


async def test_the_two_kinds_can_be_told_apart(client: AnyClient) -> None:
    assert isinstance(client.client, Client | AsyncClient)
