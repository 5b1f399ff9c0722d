"""The examples of docs/deploy-*.md: what can be run is run, what cannot is checked for what must agree in it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.processes import alive, end
from sglang_diffusion_routing.cli.serve import parse
from sglang_diffusion_routing.core.discovery import DnsName, parse_source
from sglang_diffusion_routing.launchers import config
from sglang_diffusion_routing.launchers.external import ExternalBackend
from sglang_diffusion_routing.launchers.templates import fill
from sglang_diffusion_routing.sim.process import SimProcess
from support.client import ask, request
from support.deadlines import eventually
from support.router import SOURCES, RouterProcess

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
START_S = 60.0


@pytest.mark.core
@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*launcher*.yaml")), ids=str)
def test_every_launcher_file_can_be_read(file: Path) -> None:
    config.read(file)


@pytest.mark.core
@pytest.mark.parametrize(
    "script", [EXAMPLES / "slurm" / "router.sbatch", ROOT / "docs" / "deploy-slurm.md"], ids=lambda path: path.name
)
def test_a_script_is_one_that_bash_can_read(script: Path) -> None:
    text = script.read_text()
    for source in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if script.suffix == ".md" else [text]:
        assert source.startswith("#!/bin/bash\n")
        assert "set -euo pipefail\n" in source
        subprocess.run(["bash", "-n"], input=source, text=True, check=True)
        # Every directive stands before the first command: Slurm reads no further.
        assert "#SBATCH" not in source.partition("set -euo pipefail")[2]


class Documents:
    """The objects of the Kubernetes manifests."""

    def __init__(self) -> None:
        files = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
        objects = [document for file in files for document in yaml.safe_load_all(file.read_text())]
        self._objects = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        assert len(self._objects) == len(objects)

    def __call__(self, kind: str, name: str) -> Any:
        return self._objects[kind, name]["spec"]

    def container(self, name: str) -> Any:
        (container,) = self("Deployment", name)["template"]["spec"]["containers"]
        return container

    def port(self, name: str) -> int:
        (port,) = self.container(name)["ports"]
        return int(port["containerPort"])


@pytest.fixture(scope="module")
def kubernetes() -> Documents:
    return Documents()


def router_settings(kubernetes: Documents) -> Any:
    container = kubernetes.container("sglang-d-router")
    assert container["command"] == ["sglang-d-router"]
    return parse(container["args"], {})


@pytest.mark.core
class TestOnKubernetes:
    @pytest.mark.parametrize(
        ("service", "deployment"), [("sglang-workers", "sglang-worker"), ("sglang-d-router", "sglang-d-router")]
    )
    def test_a_service_selects_the_pods_of_its_deployment_and_their_port(
        self, kubernetes: Documents, service: str, deployment: str
    ) -> None:
        pods = kubernetes("Deployment", deployment)
        labels = pods["template"]["metadata"]["labels"]
        selector = kubernetes("Service", service)["selector"]
        assert selector.items() <= labels.items()
        assert pods["selector"]["matchLabels"].items() <= labels.items()
        (port,) = kubernetes("Service", service)["ports"]
        (container_port,) = kubernetes.container(deployment)["ports"]
        assert port["targetPort"] == container_port["name"]

    def test_the_router_discovers_the_headless_service(self, kubernetes: Documents) -> None:
        (source,) = map(parse_source, router_settings(kubernetes).discover)
        service = kubernetes("Service", "sglang-workers")
        assert source == DnsName("sglang-workers", kubernetes.port("sglang-worker"))
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        assert service["ports"][0]["port"] == source.port

    def test_both_listen_where_their_pods_say(self, kubernetes: Documents) -> None:
        settings = router_settings(kubernetes)
        assert (settings.host, settings.port) == ("0.0.0.0", kubernetes.port("sglang-d-router"))
        worker = kubernetes.container("sglang-worker")
        assert {"--host=0.0.0.0", f"--port={kubernetes.port('sglang-worker')}"} <= set(worker["args"])
        gpus = worker["resources"]["limits"]["nvidia.com/gpu"]
        assert f"--num-gpus={gpus}" in worker["args"]

    def test_there_is_time_to_end_in_order(self, kubernetes: Documents) -> None:
        settings = router_settings(kubernetes)
        pod = kubernetes("Deployment", "sglang-d-router")["template"]["spec"]
        command, before_s = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "sleep"
        assert pod["terminationGracePeriodSeconds"] >= int(before_s) + settings.shutdown_grace_s + 10

    def test_a_busy_worker_has_as_long_as_the_router_gives_it(self, kubernetes: Documents) -> None:
        probe = kubernetes.container("sglang-worker")["livenessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= router_settings(kubernetes).busy_grace_s

    def test_there_is_one_router_with_one_state_that_outlives_it(self, kubernetes: Documents) -> None:
        pods, settings = kubernetes("Deployment", "sglang-d-router"), router_settings(kubernetes)
        assert (pods["replicas"], pods["strategy"], settings.resume) == (1, {"type": "Recreate"}, True)
        mounts = {
            mount["mountPath"]: mount["name"] for mount in pods["template"]["spec"]["containers"][0]["volumeMounts"]
        }
        volumes = {volume["name"]: volume for volume in pods["template"]["spec"]["volumes"]}
        claim = volumes[mounts[str(Path(settings.state).parent)]]["persistentVolumeClaim"]["claimName"]
        assert kubernetes("PersistentVolumeClaim", claim)
        assert "emptyDir" in volumes[mounts["/tmp"]]

    def test_every_mount_has_its_volume(self, kubernetes: Documents) -> None:
        for name in ("sglang-worker", "sglang-d-router"):
            volumes = {volume["name"] for volume in kubernetes("Deployment", name)["template"]["spec"]["volumes"]}
            assert {mount["name"] for mount in kubernetes.container(name)["volumeMounts"]} == volumes

    def test_the_router_is_reached_while_the_whole_fleet_sleeps(self, kubernetes: Documents) -> None:
        probes = (kubernetes.container("sglang-d-router")[name] for name in ("readinessProbe", "livenessProbe"))
        assert {probe["httpGet"]["path"] for probe in probes} == {"/liveness"}


@pytest.mark.e2e
def test_the_probes_of_the_manifests_are_answered(kubernetes: Documents) -> None:
    """With workers asleep, which is when it matters for the router's."""
    paths = {
        name: {probe["httpGet"]["path"] for key, probe in kubernetes.container(name).items() if key.endswith("Probe")}
        for name in ("sglang-worker", "sglang-d-router")
    }
    with SimProcess() as worker, RouterProcess([worker.url]) as router:
        router.wait_until_healthy(1)
        assert ask(router.port, request(b"POST", b"/release_memory_occupation", body=b"{}")).status == 200
        for name, port in (("sglang-worker", worker.port), ("sglang-d-router", router.port)):
            for path in paths[name]:
                assert ask(port, request(b"GET", path.encode())).status == 200, (name, path)


# Slurm, as far as the example needs it: a step is a process, and its options are those that Slurm has.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
  case $1 in
    --nodes=1|--ntasks=1|--gpus-per-task=*|--cpus-per-task=*|--exact|--job-name=*) shift ;;
    *) echo "srun: unrecognized option '$1'" >&2; exit 1 ;;
  esac
done
exec "$@"
"""
HOSTNAME = "#!/bin/sh\necho 127.0.0.1\n"
SGLANG = """#!/bin/bash
[[ $1 == serve ]] || exit 2
flags=()
for flag in "${@:2}"; do
  # The simulated worker has nothing to do when it is idle.
  [[ $flag == --sleep-on-idle ]] || flags+=("$flag")
done
exec {python} -m sglang_diffusion_routing sim "${flags[@]}"
"""
ROUTER = '#!/bin/bash\nexec {python} -m sglang_diffusion_routing "$@"\n'


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a batch step."""
    programs = {"srun": SRUN, "hostname": HOSTNAME, "sglang": SGLANG, "sglang-d-router": ROUTER}
    for name, source in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.replace("{python}", sys.executable))
        path.chmod(0o755)
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    yield {
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(SOURCES),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "ROUTER_PORT": "0",
        "ROUTER_ADDRESS_FILE": str(tmp_path / "address"),
        "LAUNCHER_CONFIG": str(tmp_path / "launcher.yaml"),
        "MARK": mark,
    }
    end(mark)


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_the_batch_script_starts_workers_as_steps_and_ends_with_them(tmp_path: Path, slurm: dict[str, str]) -> None:
    text = (EXAMPLES / "slurm" / "launcher.yaml").read_text()
    smaller = re.sub(r"num_workers: \d+", "num_workers: 2\n  worker_base_port: 28100", text)
    (tmp_path / "launcher.yaml").write_text(smaller.replace("--host 0.0.0.0", "--host 127.0.0.1"))
    with (tmp_path / "stderr").open("wb") as stderr:
        job = subprocess.Popen(
            ["bash", str(EXAMPLES / "slurm" / "router.sbatch")], env=slurm, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        assert job.stdout is not None
        line = next((text for text in job.stdout if b"listening on" in text), b"")
        assert line, (tmp_path / "stderr").read_text()
        port = int(line.rstrip().rpartition(b":")[2])

        def statuses() -> list[str]:
            return [worker["status"] for worker in ask(port, request(b"GET", b"/workers")).json()["workers"]]

        eventually(statuses, lambda seen: seen == ["active", "active"], within_s=START_S)
        assert (tmp_path / "address").read_text() == "http://127.0.0.1:0\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(START_S) == 0
        assert not alive(slurm["MARK"])
    finally:
        job.kill()
        job.wait()
        assert job.stdout is not None
        job.stdout.close()


@pytest.mark.core
def test_the_workers_of_the_batch_script_have_ports_of_their_own() -> None:
    wanted = config.read(EXAMPLES / "slurm" / "launcher.yaml")
    assert wanted.command is not None
    backend = ExternalBackend(wanted, {}, Path("logs"))
    commands = [" ".join(fill(wanted.command, backend._values(slot))) for slot in range(wanted.num_workers)]
    ports = [re.findall(r"port (\d+)", command) for command in commands]
    assert all(len(each) == 3 for each in ports)
    assert len({port for each in ports for port in each}) == 3 * wanted.num_workers
