"""Tests of `workers ...`."""

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import RunningRouter
from support.shell import Shell

pytestmark = pytest.mark.loopback


async def test_the_list_shows_every_worker_and_the_queue(shell: Shell, workers: list[SimInThread]) -> None:
    shown = await shell.run("workers", "list")

    assert shown.status == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["worker", "status", "running", "jobs", "weights", "speed", "why"]
    assert [line.split()[:5] for line in lines[1:3]] == [[worker.url, "active", "0", "0", "0"] for worker in workers]
    assert lines[3] == "0 waiting"
    assert {worker["url"] for worker in (await shell.run("workers", "list", "--json")).json["workers"]} == {
        worker.url for worker in workers
    }


async def test_a_worker_is_held_and_let_go(shell: Shell, workers: list[SimInThread], router: RunningRouter) -> None:
    url = workers[0].url
    assert (await shell.run("workers", "drain", url)).out == f"{url}: draining (an operator holds it)\n"
    assert (await router.statuses())[url] == "draining"
    assert (await shell.run("workers", "undrain", url)).out == f"{url}: active\n"
    assert "an operator has quarantined it" in (await shell.run("workers", "quarantine", url)).out
    assert (await shell.run("workers", "recover", url, "--json")).json["worker"]["is_dead"] is False
    await router.until_status(url, "active")


async def test_workers_come_and_go(shell: Shell, router: RunningRouter) -> None:
    with SimInThread() as one, SimInThread() as two:
        shown = await shell.run("workers", "add", one.url, two.url, "--label", "zone=b")
        assert [line.split()[1] for line in shown.out.splitlines()[1:]] == ["active", "active"]
        assert (await router.worker(one.url))["labels"] == {"zone": "b"}
        assert (await shell.run("workers", "remove", one.url)).out == f"{one.url}: removed\n"
        assert (await shell.run("workers", "remove", two.url, "--force", "--json")).json["status"] == "success"
        assert len(await router.statuses()) == 2
