"""Two real workers and the router that started them, as a person starts them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx2
import msgpack
import psutil
import yaml

from engine.worker import PAUSE_S, START_S, STOP_S, free_ports
from support.deadlines import eventually, eventually_equal
from support.router import RouterProcess

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "engine-cpu.yaml"
IMAGES = "/tmp/engine-cpu-images"  # where the example keeps its pictures
WORKERS = 2  # of the example
PORTS = 4  # of each worker: HTTP, the broker, and two internal ones
WORK_S = 60.0
SMALL = {"width": 64, "height": 64, "num_inference_steps": 4}


class EngineFleet:
    """`sglang-d-router --launcher-config examples/engine-cpu.yaml`, with ports and folders of its own.

    As a context manager its two workers serve when the block begins.

    Args:
        gpus: how many there are to share; 0 for a CPU.

    Attributes:
        models: the folder of the models that there are.
        python: the interpreter that has the engine's packages, clients among them.
    """

    def __init__(self, environment: Path, folder: Path, *, gpus: int) -> None:
        self.models = environment / "models"
        self.python = environment / "venv" / "bin" / "python"
        base = free_ports(WORKERS * PORTS)
        self._file = folder / "launcher.yaml"
        example = EXAMPLE.read_text(encoding="utf-8").replace(".engine/", f"{environment}/")
        launcher = yaml.safe_load(example.replace(IMAGES, str(folder / "images")))["launcher"] | {
            "worker_base_port": base,
            "scheduler_port_base": base + 2 * WORKERS,
            "master_port_base": base + 3 * WORKERS,
            "internal_port_stride": 1,
            "restart_delay": 0.1,
            "log_dir": str(folder / "logs"),
        }
        if gpus:
            launcher |= {
                "num_gpus_per_worker": 1,
                "worker_gpu_ids": [str(worker % gpus) for worker in range(WORKERS)],
            }
        self._file.write_text(yaml.safe_dump({"launcher": launcher}), encoding="utf-8")
        self._router: RouterProcess | None = None

    def __enter__(self) -> Self:
        flags = ("--launcher-config", str(self._file), "--health-check-interval", "1")
        self._router = RouterProcess((), *flags, start_s=START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.router.stop(within_s=STOP_S)

    @property
    def router(self) -> RouterProcess:
        assert self._router is not None
        return self._router

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.port}"

    def workers(self) -> list[dict[str, Any]]:
        return list(self.router.get("/workers")["workers"])

    def urls(self) -> list[str]:
        return [str(worker["url"]) for worker in self.workers()]

    def post(self, path: str, at: str | None = None, **body: Any) -> httpx2.Response:
        """Send JSON to the router, or to the worker `at`."""
        return httpx2.post((at or self.url) + path, json=body, timeout=WORK_S)

    def rollout(self, seed: int, at: str | None = None, **more: Any) -> httpx2.Response:
        body = {"prompt": "a red boat", "seed": seed, **SMALL, "rollout_return_dit_trajectory": True, **more}
        return self.post("/rollout/generate", at, **body)

    def made(self, seed: int, at: str | None = None) -> list[dict[str, Any]]:
        """Roll out; give the samples without what differs between two runs of the same."""
        reply = self.rollout(seed, at)
        assert reply.status_code == 200, reply.text
        return samples_of(reply)

    def checksums(self) -> dict[str, str]:
        """Give each worker's checksum of its transformer, asked of it directly."""
        return {url: str(self.post("/get_weights_checksum", url).json()["transformer"]) for url in self.urls()}

    def refit(self, model: str, version: str) -> httpx2.Response:
        return self.post("/update_weights_from_disk", model_path=str(self.models / model), weight_version=version)

    def wait_until_active(self, version: str | None = None, *, within_s: float = START_S) -> None:
        """Wait until both workers serve, on this version if one is given."""
        eventually(
            self.workers,
            lambda now: (
                len(now) == WORKERS
                and all(worker["status"] == "active" and version in {None, worker["weight_version"]} for worker in now)
            ),
            within_s=within_s,
            every_s=PAUSE_S,
        )

    def wait_until_idle(self) -> None:
        eventually_equal(lambda: set(self.router.in_flight().values()), {0}, within_s=WORK_S)

    def process(self, url: str) -> psutil.Process:
        """Find the process that listens at a worker's URL, among those that the router started."""
        port = int(url.rpartition(":")[2])
        for process in psutil.Process(self.router.pid).children(recursive=True):
            listening = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            if port in listening:
                return process
        raise AssertionError(f"nothing listens on port {port}")


def samples_of(reply: httpx2.Response) -> list[dict[str, Any]]:
    """Decode a rollout without its id and the time it took, which no two runs share."""
    samples: Sequence[dict[str, Any]] = msgpack.unpackb(reply.content)
    return [{k: v for k, v in sample.items() if k not in {"request_id", "inference_time_s"}} for sample in samples]
