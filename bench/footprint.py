"""What the router takes of a machine: `python bench/footprint.py`.

For each number of workers: memory, open files, and CPU at rest. Then, in front of the last of them, what every idle
client, every request that waits and every request under way adds. All on loopback, with the other measures' backend.
"""

import argparse
import contextlib
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import contestants
from contestants import Contestant
from crowd import WORK, control, wait_for_queue
from measures import Run, backend, running
from processes import Failed

CLIENT_S = 60.0
BODY = b'{"prompt":"%b","seed":7}' % (b"x" * 1000)
WAITING = b"POST /generate HTTP/1.1\r\nHost: router\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
UNDER_WAY = WORK.replace(b"/generate", b"/take?slow_s=600").replace(b"Content-Length: 2", b"Content-Length: 100000")


def open_files(entry: Contestant) -> int:
    """Count the open files of the router's process and its children."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in entry.process.pids())


def at_rest(entry: Contestant, seconds: float) -> float:
    """Give the share of a core that the router takes while nobody asks anything."""
    began_s, before_s = time.monotonic(), entry.process.cpu_s()
    time.sleep(seconds)
    return (entry.process.cpu_s() - before_s) / (time.monotonic() - began_s)


@contextlib.contextmanager
def crowd(port: int, count: int, begin: bytes) -> Iterator[None]:
    """Hold so many connections, each of which has sent `begin`."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=CLIENT_S))
            sock.sendall(begin)
        yield


def settled(entry: Contestant, connections: int) -> None:
    """Wait until the router has so many clients."""
    deadline_s = time.monotonic() + CLIENT_S
    while (seen := control(entry.port, "/router_info", "GET")["client_connections"]) < connections:
        if time.monotonic() > deadline_s:
            raise Failed(f"footprint: {seen} of {connections} clients are connected")
        time.sleep(0.1)


def added(entry: Contestant, count: int, begin: bytes, ready: Callable[[], None]) -> tuple[float, float]:
    """Give the KiB and the open files that each of so many connections adds, once `ready` returns."""
    memory, files = entry.process.rss_bytes(), open_files(entry)
    with crowd(entry.port, count, begin):
        ready()
        return (entry.process.rss_bytes() - memory) / count / 1024, (open_files(entry) - files) / count


@contextlib.contextmanager
def router(run: Run, workers: int) -> Iterator[Contestant]:
    """Run a fresh router with so many workers, and give it when they have all been probed."""
    with backend(run, workers) as addresses:
        start = partial(contestants.router, run.folder, addresses, "--no-state")
        with running(run, [start]) as ((entry,), _):
            while control(entry.port, "/health", "GET")["healthy_workers"] < workers:
                time.sleep(0.1)
            yield entry


def fleets(run: Run, sizes: Sequence[int], rest_s: float) -> Iterator[str]:
    """Give what each size of the fleet takes."""
    yield "| Workers | Memory | Open files | CPU at rest |\n|---|---|---|---|"
    for size in sizes:
        with router(run, size) as entry:
            rest = at_rest(entry, rest_s)
            memory = entry.process.rss_bytes() / 2**20
            yield f"| {size:,} | {memory:.0f} MiB | {open_files(entry):,} | {rest * 100:.1f} % of a core |"


def clients(run: Run, workers: int, count: int) -> Iterator[str]:
    """Give what each client adds, every kind on a fresh router: memory that was used once is used again."""
    yield f"\n| Each of {count:,} | Memory | Open files |\n|---|---|---|"
    for name, begin in {"idle client": b"", "request that waits": WAITING, "request under way": UNDER_WAY}.items():
        with router(run, workers) as entry:
            ready = partial(settled, entry, count)
            if begin == WAITING:
                control(entry.port, "/pause_generation")
                ready = partial(wait_for_queue, entry.port, count)
            memory, files = added(entry, count, begin, ready)
            yield f"| {name} | {memory:.1f} KiB | {files:.1f} |"


def main() -> int:
    """Print both tables; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 100, 1000], help="sizes of the fleet")
    parser.add_argument("--clients", type=int, default=1000, help="connections of each kind (1000)")
    parser.add_argument("--rest-s", type=float, default=30.0, help="seconds of rest that are measured (30)")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="router-footprint-") as folder:
        run = Run(Path(folder), 1, None, {})
        try:
            for line in chain(
                fleets(run, arguments.workers, arguments.rest_s),
                clients(run, arguments.workers[-1], arguments.clients),
            ):
                print(line, flush=True)
        except Failed as why:
            print(why, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
