"""A training job: `python -m integrations.ray_job ADDRESS NODE` joins a Ray cluster and does what it is told.

One JSON array a line, `[what, ...arguments]`, and one JSON value a line back.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from argparse import Namespace
from typing import Any

import ray

from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.integrations.miles import run_router
from sglang_diffusion_routing.integrations.ray import Router, start_router


class RolloutManager:
    """As miles' own: an actor that starts the router as a daemon process of its own."""

    def __init__(self, port: int) -> None:
        args = Namespace(sglang_router_ip="127.0.0.1", sglang_router_port=port)
        self._process = multiprocessing.Process(target=run_router, args=(args,), daemon=True)
        self._process.start()

    def pid(self) -> int | None:
        return self._process.pid


class Job:
    """What the job can be told to do."""

    def __init__(self, node: str) -> None:
        self._node_id = next(one["NodeID"] for one in ray.nodes() if one["NodeManagerAddress"] == node)
        self._router: Router | None = None
        self._manager: Any = None

    @property
    def router(self) -> Router:
        assert self._router is not None
        return self._router

    def start(self, settings: dict[str, Any], options: dict[str, Any] | None = None) -> dict[str, Any]:
        self._router = start_router(node_id=self._node_id, options=options, **settings)
        return {"url": self.router.url, "pid": ray.get(self.router.actor.pid.remote())}

    def add(self, url: str) -> list[str]:
        self.router.add_workers([url])
        self.router.wait_ready(1)
        return [worker["url"] for worker in self.router.workers()]

    def workers(self) -> list[str]:
        return [worker["url"] for worker in self.router.workers()]

    def rollout(self, seeds: list[int]) -> list[int]:
        """Have a task of the job, wherever it runs, make the samples."""
        return list(ray.get(ray.remote(samples).options(num_cpus=0).remote(self.router, seeds)))

    def stop(self) -> None:
        self.router.stop()

    def kill(self) -> None:
        ray.kill(self.router.actor)

    def manage(self, port: int) -> int:
        self._manager = ray.remote(RolloutManager).options(num_cpus=0).remote(port)
        return int(ray.get(self._manager.pid.remote()))

    def kill_manager(self) -> None:
        ray.kill(self._manager)


def samples(router: Router, seeds: list[int]) -> list[int]:
    small = {"width": 64, "height": 64, "num_inference_steps": 1}
    with Client(router.url) as client:
        return [len(client.rollout("a fox", seed=seed, num_outputs_per_prompt=2, **small).samples) for seed in seeds]


def main() -> None:
    ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
    job = Job(sys.argv[2])
    print(json.dumps("ready"), flush=True)  # noqa: T201
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(getattr(job, what)(*arguments)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
