"""What a refit transaction over 256 workers adds to the slowest worker's own time: `python bench/run.py refit`."""

import http.client
import json
import time
from dataclasses import dataclass
from functools import partial
from statistics import median

import contestants
from contestants import OURS
from measures import Run, backend, running
from processes import Failed
from report import Row

WORKERS = 256
REFIT_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Refit:
    """One transaction: how long its slowest worker took by its own account, and the whole by its client's."""

    slowest_s: float
    whole_s: float


def refit(run: Run) -> list[Row]:
    """Seconds from the client's request to its answer, beyond those of the slowest worker."""
    with backend(run, WORKERS) as workers:
        start = partial(contestants.router, run.folder, workers, "--state", str(run.folder / "state.db"))
        with running(run, [start]) as ((entry,), _):
            wait_for(entry.port, WORKERS)
            refit_once(entry.port, "warm-up")
            found = [refit_once(entry.port, f"round {number}") for number in range(run.rounds)]
    added = [one.whole_s - one.slowest_s for one in found]
    values = {
        "the slowest worker": median(one.slowest_s for one in found),
        f"{OURS}, the transaction": median(one.whole_s for one in found),
    }
    note = f"between {min(added):.3f} and {max(added):.3f} s, with its state on disk"
    return [Row(f"refit of {WORKERS} workers", "seconds", values, median(added), "added by the router", 0.2, note=note)]


def refit_once(port: int, version: str) -> Refit:
    """Load a checkpoint into all; every worker says in its reply how long it took."""
    body = json.dumps({"model_path": f"/checkpoints/{version}", "weight_version": version})
    began_s = time.monotonic()
    reply = ask(port, "POST", "/update_weights_from_disk", body)
    whole_s = time.monotonic() - began_s
    rows = reply.get("results", [])
    if len(rows) != WORKERS or not reply["success"]:
        raise Failed(f"a refit of {WORKERS} workers: {str(reply)[:500]}")
    return Refit(max(row["body"]["seconds"] for row in rows), whole_s)


def wait_for(port: int, workers: int) -> None:
    """Wait until so many have answered a probe."""
    deadline_s = time.monotonic() + REFIT_LIMIT_S
    while (healthy := ask(port, "GET", "/health")["healthy_workers"]) < workers:
        if time.monotonic() > deadline_s:
            raise Failed(f"{healthy} of {workers} workers have answered")
        time.sleep(0.1)


def ask(port: int, method: str, path: str, body: str = "") -> dict:
    """Make one call of the router's control API and decode the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REFIT_LIMIT_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
