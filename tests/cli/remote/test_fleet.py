"""Tests of `refit`, `sleep` and `wake`."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.running import RunningRouter
from support.shell import Shell

pytestmark = pytest.mark.loopback


async def test_a_refit_shows_what_became_of_each_worker(
    shell: Shell, workers: list[SimInThread], router: RunningRouter, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "c", seed=5)
    await shell.run("workers", "quarantine", workers[1].url)
    shown = await shell.run(
        "refit", str(tmp_path / "c"), "--weight-version", "step-1", "--target-modules", "transformer"
    )

    assert shown.status == 0
    rows = [line.split(maxsplit=1) for line in shown.out.splitlines()]
    assert [row[0] for row in rows] == ["worker", workers[0].url, workers[1].url]
    assert rows[1][1].strip() == "on step-1"
    assert rows[2][1].startswith("skipped: ")
    assert (await router.worker(workers[0].url))["weight_version"] == "step-1"


async def test_a_refit_that_workers_refuse_is_1(shell: Shell) -> None:
    shown = await shell.run("refit", "/no/such/checkpoint")
    assert shown.status == 1
    assert "400: " in shown.out

    shown = await shell.run("refit", "/no/such/checkpoint", "--json")
    assert (shown.status, shown.json["success"], len(shown.json["results"])) == (1, False, 2)


async def test_the_fleet_is_put_to_sleep_and_woken(
    shell: Shell, router: RunningRouter, workers: list[SimInThread]
) -> None:
    shown = await shell.run("sleep", "--selector", workers[0].url)
    assert shown.out.splitlines()[1].split() == [workers[0].url, "asleep"]
    assert set((await router.statuses()).values()) == {"sleeping", "active"}
    shown = await shell.run("wake")
    assert (shown.status, shown.out.splitlines()[1].split()) == (0, [workers[0].url, "awake"])
    assert "already" in (await shell.run("wake")).out
    assert set((await router.statuses()).values()) == {"active"}
