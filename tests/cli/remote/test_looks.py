"""Tests of `weights` and `jobs`."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.running import RunningRouter
from support.shell import Shell

pytestmark = pytest.mark.loopback


async def test_the_weights_of_every_worker_are_shown(shell: Shell, workers: list[SimInThread], tmp_path: Path) -> None:
    assert "no target yet" in (await shell.run("weights")).out
    write_checkpoint(tmp_path / "c", seed=6)
    await shell.run("refit", str(tmp_path / "c"), "--weight-version", "step-1")
    shown = await shell.run("weights")

    assert shown.out.splitlines()[0].endswith(": step-1")
    assert [line.split()[:3] for line in shown.out.splitlines()[2:]] == [[w.url, "step-1", "active"] for w in workers]
    (group,) = (await shell.run("weights", "--json")).json["groups"].values()
    assert group["target"] == "step-1"


async def test_the_jobs_of_all_workers_are_shown(shell: Shell, router: RunningRouter) -> None:
    with SimInThread(SimSettings(model="wan")) as video:
        await shell.run("workers", "add", video.url)
        body = {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1, "num_frames": 5}
        job = (await router.client.post("/v1/videos", json=body)).json()["id"]
        assert job in (await shell.run("jobs")).out
        assert [row["id"] for row in (await shell.run("jobs", "--limit", "1", "--json")).json["data"]] == [job]
        assert (await shell.run("jobs", "--kind", "meshes")).out.splitlines() == ["job  status  progress  model"]
        await shell.run("workers", "remove", video.url, "--force")
