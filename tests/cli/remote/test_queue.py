"""Tests of `pause`, `continue` and `abort`."""

import asyncio

import pytest

from support.running import RunningRouter, eventually
from support.shell import Shell

pytestmark = pytest.mark.loopback


async def test_the_queue_is_held_dropped_and_released(shell: Shell, router: RunningRouter) -> None:
    assert (await shell.run("pause", "--for", "600")).out == "paused, 0 waiting\n"
    work = asyncio.ensure_future(
        router.client.post(
            "/v1/images/generations", json={"prompt": "a"}, headers={"x-sglang-router-group": "g", "x-request-id": "r"}
        )
    )
    await eventually(lambda: router.get("/workers"), lambda got: got[1]["queue"]["requests"] == 1)

    assert (await shell.run("abort", "--group", "other")).out == "0 dropped\n"
    assert (await shell.run("abort", "--request-id", "r", "--json")).json == {"aborted": 1}
    assert (await work).status_code == 499
    assert (await shell.run("abort", "--all")).out == "0 dropped\n"
    assert (await shell.run("continue", "--json")).json == {"status": "running", "queued": 0}
