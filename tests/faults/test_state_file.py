"""A router that is killed, and the disk that it left its knowledge on."""

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.client import Client, ask, request
from support.deadlines import eventually, eventually_equal
from support.durable import call, restored, start
from support.mounts import mounted
from support.router import SOURCES, RouterProcess

pytestmark = pytest.mark.e2e

# Nobody listens there: a worker need not be up to be remembered.
NOBODY = [f"http://127.0.0.1:{port}" for port in range(1, 9)]


def worker_of(router: RouterProcess, job_id: str) -> tuple[int, str]:
    """Ask for a video; give the status and who answered."""
    reply = ask(router.port, request(b"GET", f"/v1/videos/{job_id}".encode()))
    return reply.status, b"".join(reply.values(b"x-sglang-router-worker")).decode()


def refused(path: Path, *flags: str) -> str:
    """Give the one sentence with which a router does not start."""
    address = ("--host", "127.0.0.1", "--port", "0")
    ended = subprocess.run(
        [sys.executable, "-m", "sglang_diffusion_routing", *address, "--state", path, "--log-level", "error", *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:/bin"},
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended
    return ended.stderr.rstrip("\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def videos() -> Iterator[tuple[SimInThread, SimInThread]]:
    """Two workers whose videos take a while."""
    settings = SimSettings(model="wan", overhead_seconds=1.0)
    with SimInThread(settings) as one, SimInThread(settings) as two:
        yield one, two


def test_a_router_that_was_killed_knows_its_workers_and_how_they_were_left(path: Path) -> None:
    with SimInThread() as awake, SimInThread() as drained, start(path) as router:
        bad, gone = NOBODY[:2]
        for url in (awake.url, bad, drained.url, gone):
            assert call(router, "POST", "/workers", {"url": url})[0] in {200, 201}
        router.wait_until_healthy(2)
        change = {"labels": {"rack": "7"}, "max_concurrency": 3}
        assert call(router, "PUT", f"/workers/{awake.url}", change)[0] == 200
        assert call(router, "PUT", f"/workers/{bad}", {"is_dead": True})[0] == 200
        assert call(router, "PUT", f"/workers/{drained.url}", {"state": "drained"})[0] == 200
        assert call(router, "DELETE", f"/workers/{gone}")[0] == 200
        before = {worker["url"]: worker for worker in router.get("/workers")["workers"]}
        router.kill()
        with start(path, workers=(NOBODY[2], awake.url)) as again:
            assert restored(again) == (
                "sglang-d-router restored 3 workers (1 quarantined, 1 drained), 0 weight targets and 0 jobs "
                f"from {path}"
            )
            again.wait_until_healthy(2)
            after = {worker["url"]: worker for worker in again.get("/workers")["workers"]}
            assert list(after) == [awake.url, bad, drained.url, NOBODY[2]]
            assert (after[awake.url]["labels"], after[awake.url]["max_concurrency"]) == ({"rack": "7"}, 3)
            assert {url: after[url]["status"] for url in (bad, drained.url)} == {
                url: before[url]["status"] for url in (bad, drained.url)
            }
            eventually(again.statuses, lambda statuses: statuses[awake.url] == "active")


def test_a_fleet_that_was_put_to_sleep_sleeps_on(path: Path) -> None:
    with SimInThread() as one, SimInThread() as two, start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        assert call(router, "POST", "/release_memory_occupation", {})[0] == 200
        router.kill()
        with start(path) as again:
            assert "2 workers (2 asleep)" in restored(again)
            eventually_equal(again.statuses, {one.url: "sleeping", two.url: "sleeping"})
            assert call(again, "POST", "/v1/images/generations", {"prompt": "x"})[0] == 503
            assert call(again, "POST", "/resume_memory_occupation", {})[0] == 200
            eventually_equal(again.statuses, {one.url: "active", two.url: "active"})
            again.kill()
        with start(path) as awake:
            assert "2 workers, " in restored(awake)


def test_a_job_has_an_owner_as_soon_as_its_reply_has_ended(path: Path, videos: tuple[SimInThread, SimInThread]) -> None:
    one, two = videos
    owners: dict[str, str] = {}
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        for _ in range(4):
            wire = request(
                b"POST", b"/v1/videos", b"Content-Type: application/json", body=b'{"prompt":"x","size":"64x64"}'
            )
            reply = ask(router.port, wire)
            assert reply.status == 200
            owners[json.loads(reply.body)["id"]] = b"".join(reply.values(b"x-sglang-router-worker")).decode()
        router.kill()
    assert len(set(owners.values())) == 2
    with start(path) as again:
        assert "2 workers, 0 weight targets and 4 jobs" in restored(again)
        # They run on and count as load, so that neither gets more than its share.
        assert sum(again.in_flight().values()) == 4
        assert {job_id: worker_of(again, job_id) for job_id in owners} == {
            job_id: (200, url) for job_id, url in owners.items()
        }
        again.wait_until_idle()
        # Each is looked at before it gets work, and a removal waits for that.
        eventually(again.statuses, lambda statuses: set(statuses.values()) == {"active"})
        assert call(again, "DELETE", f"/workers/{one.url}")[0] == 200
        again.kill()
    with start(path) as last:
        statuses = {job_id: worker_of(last, job_id)[0] for job_id in owners}
        assert statuses == {job_id: 410 if url == one.url else 200 for job_id, url in owners.items()}


def test_an_end_in_order_leaves_nothing_unless_it_is_asked_for(path: Path) -> None:
    with start(path, workers=(NOBODY[0],)) as router:
        router.signal(signal.SIGTERM)
        assert router.wait() == 0
    with start(path, "--resume") as router:
        assert "restored 1 worker" in restored(router)
        router.signal(signal.SIGTERM)
        assert router.wait() == 0
    with start(path) as router:
        assert (restored(router), router.statuses()) == ("", {})
        router.kill()
    with start(path) as router:
        assert restored(router) == ""


def test_an_end_in_a_hurry_is_in_order_too(path: Path) -> None:
    body = b'{"prompt":"x","size":"64x64"}'
    with SimInThread(SimSettings(overhead_seconds=60)) as worker:
        with start(path, workers=(worker.url,)) as router, Client(router.port) as client:
            router.wait_until_healthy(1)
            client.send(request(b"POST", b"/v1/images/generations", b"Content-Type: application/json", body=body))
            eventually(router.in_flight, lambda counts: counts[worker.url] == 1)
            router.signal(signal.SIGTERM)
            eventually(router.stderr, lambda text: "shutting_down" in text)
            router.signal(signal.SIGTERM)
            assert router.wait() == 0
        with start(path) as again:
            assert restored(again) == ""


def test_a_start_that_fails_keeps_the_state(path: Path) -> None:
    with start(path, workers=(NOBODY[0],)) as router:
        router.kill()
    assert "metadata service" in refused(path, "--worker-urls", "http://169.254.169.254")
    with start(path) as router:
        assert "restored 1 worker" in restored(router)


def test_a_second_router_does_not_get_the_file(path: Path) -> None:
    with start(path) as router:
        assert refused(path) == (
            f"sglang-d-router: state file {path} is in use by another router (process {router.pid}); "
            "each router needs a --state FILE of its own"
        )
        assert call(router, "POST", "/workers", {"url": NOBODY[0]})[0] in {200, 201}


def test_a_file_that_cannot_be_used_keeps_the_router_from_starting(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    assert "is damaged (file is not a database), and was left as it is; move it away" in refused(path)
    assert path.read_bytes() == b"not a database" * 1000
    path.unlink()
    with start(path, workers=(NOBODY[0],)) as router:
        router.kill()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "is from a newer router (schema 99, this one knows 1)" in refused(path)


def test_a_file_on_a_read_only_disk_keeps_the_router_from_starting() -> None:
    with mounted(size_bytes=2**20) as mount:
        with start(mount.path / "state.db") as router:
            router.kill()
        mount.make_read_only()
        assert refused(mount.path / "state.db").endswith("state.db cannot be opened: read-only file system")


def test_what_cannot_be_resumed_is_told(path: Path) -> None:
    assert refused(path, "--no-state", "--resume") == (
        "sglang-d-router: --resume needs a state file, and --no-state forbids one"
    )


def test_a_router_whose_disk_is_full_goes_on(path: Path) -> None:
    with mounted(size_bytes=2**20) as mount, SimInThread() as worker:
        with start(mount.path / "state.db", workers=(worker.url,)) as router:
            router.wait_until_healthy(1)
            mount.fill()
            labels = {f"label-{number}": "x" * 60 for number in range(32)}
            began_s = time.monotonic()
            for url in NOBODY[:3]:
                assert call(router, "POST", "/workers", {"url": url})[0] in {200, 201}
                assert call(router, "PUT", f"/workers/{url}", {"labels": labels})[0] == 200
            assert call(router, "POST", "/v1/images/generations", {"prompt": "x", "size": "64x64"})[0] == 200
            assert time.monotonic() - began_s < 10
            eventually(router.stderr, lambda text: "state_not_saved" in text)
            assert "cannot be written: the disk is full" in router.stderr()
            mount.free()
            eventually(router.stderr, lambda text: "state_saved_again" in text)
            assert router.stderr().count("state_not_saved") == 1
            router.kill()
        with start(mount.path / "state.db") as again:
            assert list(again.statuses()) == [worker.url, *NOBODY[:3]]


def test_no_registration_that_was_answered_is_lost_whenever_the_router_is_killed(path: Path) -> None:
    rng = random.Random(3)
    known: set[str] = set()
    ever_asked: set[str] = set()
    for turn in range(6):
        asked = [f"http://127.0.0.1:{port}" for port in range(1000 + turn * 40, 1040 + turn * 40)]
        with start(path) as router:
            found = set(router.statuses())
            assert known <= found <= ever_asked
            known = found
            ever_asked.update(asked)
            code = (
                "import sys, json\n"
                "from support.client import ask, request\n"
                "for url in sys.argv[2:]:\n"
                "    body = json.dumps({'url': url}).encode()\n"
                "    wire = request(b'POST', b'/workers', b'Content-Type: application/json', body=body)\n"
                "    if ask(int(sys.argv[1]), wire).status in {200, 201}:\n"
                "        print(url, flush=True)\n"
            )
            tests = str(Path(__file__).resolve().parents[1])
            with subprocess.Popen(
                [sys.executable, "-c", code, str(router.port), *asked],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={"PYTHONPATH": f"{SOURCES}:{tests}", "PATH": "/usr/bin:/bin"},
            ) as client:
                assert client.stdout is not None
                for _ in range(rng.randrange(1, 20)):
                    known.add(client.stdout.readline().strip())
                # At no point in particular.
                time.sleep(rng.random() * 0.01)
                router.kill()
                known.update(client.stdout.read().split())
    with start(path) as router:
        found = set(router.statuses())
        assert known <= found
        match = re.search(r"restored (\d+) workers", restored(router))
        assert match is not None
        assert int(match[1]) == len(found)
