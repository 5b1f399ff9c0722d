"""Workers on a Ray cluster, behind a real router: placed, lost with a node, placed anew, and gone with the router."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.processes import alive, end
from launchers.ray_cluster import RayCluster
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers.config import BackendName, LauncherConfig
from sglang_diffusion_routing.launchers.ray import RayBackend
from support.client import ask, request
from support.deadlines import eventually, eventually_equal
from support.router import RouterProcess

CLUSTER_S = 90.0
"""Ray starts in some ten seconds, and tells of a lost node in as many; machines stall."""

IMAGE = b'{"prompt": "a boat", "size": "64x64", "num_inference_steps": 1}'


@pytest.mark.core
async def test_without_ray_the_start_ends_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadSetting) as caught:
        await RayBackend(LauncherConfig(backend=BackendName.RAY, model="m")).prepare()
    assert caught.value.message == (
        "launcher has the backend ray, which needs Ray: pip install 'sglang-diffusion-routing[ray]'"
    )


@pytest.mark.loopback
async def test_without_a_cluster_the_start_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    backend = RayBackend(LauncherConfig(backend=BackendName.RAY, model="m"))
    with pytest.raises(BadSetting, match=r"^launcher: address no Ray cluster at auto: [^\n]+$"):
        await backend.prepare()
    await backend.aclose()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster("127.0.0.101", "127.0.0.102") as made:
        yield made


def launcher_file(path: Path, cluster: RayCluster, mark: str) -> Path:
    path.write_text(
        f"""\
launcher:
  backend: ray
  address: {cluster.address}
  model: m
  num_workers: 2
  num_gpus_per_worker: 1
  worker_command: [{sys.executable}, -m, sglang_diffusion_routing, sim]
  worker_env: {{MARK: {mark}}}
  restart_delay: 100ms
"""
    )
    return path


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_workers_are_where_the_gpus_are_and_go_with_their_node_and_with_the_router(
    cluster: RayCluster, tmp_path: Path
) -> None:
    mark = f"mark-{tmp_path.name}-{id(tmp_path)}"
    file = launcher_file(tmp_path / "launcher.yaml", cluster, mark)
    try:
        with RouterProcess((), "--launcher-config", str(file), "--health-check-interval", "0.5") as router:

            def active() -> set[str]:
                return {url.rpartition(":")[0] for url, status in router.statuses().items() if status == "active"}

            def hosts() -> set[str]:
                return {url.rpartition(":")[0] for url in router.statuses()}

            first, second, third = (f"http://127.0.0.{number}" for number in (101, 102, 103))
            eventually(active, lambda seen: seen == {first, second}, within_s=CLUSTER_S)
            assert _works(router)
            cluster.kill("127.0.0.101")
            eventually(active, lambda seen: seen == {second}, within_s=CLUSTER_S)
            assert _works(router)
            cluster.add("127.0.0.103")
            eventually(active, lambda seen: seen == {second, third}, within_s=CLUSTER_S)
            eventually_equal(hosts, {second, third})
            assert len(alive(mark)) >= 2
            router.kill()
            eventually(lambda: alive(mark), lambda left: not left, within_s=CLUSTER_S)
    finally:
        end(mark)


def _works(router: RouterProcess) -> bool:
    target = b"/v1/images/generations"
    reply = ask(router.port, request(b"POST", target, b"Content-Type: application/json", body=IMAGE))
    return reply.status == 200
