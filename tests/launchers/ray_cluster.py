"""A Ray cluster of this machine, in a process of its own: each node has an address of its own in 127.0.0.0/8.

`python -m launchers.ray_cluster ADDRESS...` starts a head without GPUs and a node at each address, with one GPU that is
pretended, and says `cluster HEAD:PORT`. Then it takes `add ADDRESS` and `kill ADDRESS`, a line each, and says `done`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from sglang_diffusion_routing.launchers.guardian import descendants

HEAD = "127.0.0.100"
STORE_BYTES = 80 * 2**20
TESTS = Path(__file__).resolve().parents[1]


class RayCluster:
    """The cluster as its test sees it."""

    def __init__(self, *addresses: str) -> None:
        sources = str(TESTS.parent / "src")
        self._folder = tempfile.TemporaryDirectory(prefix="rt-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "launchers.ray_cluster", *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=TESTS,
            # What Ray starts on a node finds the package as it finds it there.
            env={**os.environ, "PYTHONPATH": sources, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": self._folder.name},
        )
        self.address = self._read("cluster")

    def add(self, address: str) -> None:
        self._tell(f"add {address}")

    def kill(self, address: str) -> None:
        """End a node and all that Ray runs on it, without a word to anybody."""
        self._tell(f"kill {address}")

    def an_actor(self) -> int:
        """Give the process of an actor that owns a worker."""
        for pid in descendants(self._process.pid):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::WorkerActor"):
                return pid
        raise AssertionError("there is no actor")

    def _tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        self._read("done")

    def _read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError("the cluster ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def main() -> None:
    from ray.cluster_utils import Cluster  # a second, which only this process spends

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    head = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": HEAD, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": STORE_BYTES})
    nodes: dict[str, Any] = {}

    def add(address: str) -> None:
        nodes[address] = cluster.add_node(
            num_cpus=1, num_gpus=1, node_ip_address=address, object_store_memory=STORE_BYTES
        )

    try:
        for address in sys.argv[1:]:
            add(address)
        say(f"cluster {cluster.address}")
        for line in sys.stdin:
            order, address = line.split()
            if order == "add":
                add(address)
            else:
                cluster.remove_node(nodes.pop(address), allow_graceful=False)
            say("done")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
