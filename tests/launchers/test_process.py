"""Tests of a worker's process and of its guardian, with real ones."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from launchers.processes import FAMILY, alive, end, python, spec
from sglang_diffusion_routing.launchers.base import Ended, LaunchFailed
from sglang_diffusion_routing.launchers.process import Spec, WorkerProcess, describe, tail_of
from support.deadlines import eventually, eventually_equal

pytestmark = pytest.mark.loopback

TESTS = str(Path(__file__).resolve().parents[1])


class Started:
    """Workers of one test; whatever is left of them goes with it."""

    def __init__(self) -> None:
        self._specs: list[Spec] = []

    async def __call__(self, wanted: Spec) -> WorkerProcess:
        self._specs.append(wanted)
        return await WorkerProcess.start(wanted)

    def end(self) -> None:
        for wanted in self._specs:
            end(wanted.token)


@pytest.fixture
async def start() -> AsyncIterator[Started]:
    started = Started()
    yield started
    started.end()


async def said(worker: WorkerProcess, text: str) -> None:
    await asyncio.to_thread(eventually, lambda: worker.tail(20), lambda lines: text in lines)


def guardian_of(worker: WorkerProcess) -> int:
    return int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])


async def ended(worker: WorkerProcess) -> Ended:
    async with asyncio.timeout(10):
        return await worker.wait()


async def test_a_worker_that_ends_says_how_and_what_it_said_last(start: Started, tmp_path: Path) -> None:
    worker = await start(spec(tmp_path, *python("import sys; print('loading'); sys.exit('no such model')")))
    assert await ended(worker) == Ended("ended with status 1", ("loading", "no such model"))
    assert worker.pid is None


async def test_its_process_has_its_environment_and_nothing_to_read(start: Started, tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python("import os, sys; print(os.environ['SGLD_WORKER_OF'], repr(sys.stdin.read()))"))
    worker = await start(wanted)
    assert (await ended(worker)).tail == (f"{wanted.token} ''",)
    assert (worker.url, worker.log, dict(worker.facts())) == (wanted.url, str(wanted.log), {"gpus": "0"})


async def test_nothing_is_left_of_a_worker_whose_first_process_dies(start: Started, tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python(FAMILY))
    worker = await start(wanted)
    await said(worker, "family of four")
    assert len(alive(wanted.token)) == 5  # and the guardian
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert await ended(worker) == Ended("was killed by SIGKILL", ("family of four",))
    assert alive(wanted.token) == set()


async def test_nothing_is_left_of_a_worker_that_is_killed(start: Started, tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python(FAMILY))
    worker = await start(wanted)
    await said(worker, "family of four")
    worker.kill()
    assert (await ended(worker)).reason == "was killed by SIGKILL"
    assert alive(wanted.token) == set()
    worker.kill()  # again, and nothing happens


async def test_nothing_is_left_of_a_worker_whose_guardian_is_killed(start: Started, tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python(FAMILY))
    worker = await start(wanted)
    await said(worker, "family of four")
    os.kill(guardian_of(worker), signal.SIGKILL)
    assert (await ended(worker)).reason == "was killed with its guardian"
    assert alive(wanted.token) == set()


LASTING = """
import signal, sys, time
def leave(number, frame):
    print("asked", flush=True)
    {then}
signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
while True:
    time.sleep(1000)
"""


async def test_a_worker_that_is_asked_to_end_may_end_in_order(start: Started, tmp_path: Path) -> None:
    worker = await start(spec(tmp_path, *python(LASTING.format(then="sys.exit(0)"))))
    await said(worker, "up")
    assert await worker.terminate(30) == Ended("ended with status 0", ("up", "asked"))
    assert await worker.terminate(30) == Ended("ended with status 0", ("up", "asked"))


async def test_a_worker_that_does_not_end_when_asked_is_killed(start: Started, tmp_path: Path) -> None:
    worker = await start(spec(tmp_path, *python(LASTING.format(then="pass"))))
    await said(worker, "up")
    assert await worker.terminate(0.2) == Ended("was killed by SIGKILL", ("up", "asked"))


async def test_signals_to_the_guardian_are_no_reason_to_end(start: Started, tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python(LASTING.format(then="sys.exit(7)")))
    worker = await start(wanted)
    await said(worker, "up")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(guardian_of(worker), number)
    assert (await worker.terminate(30)).reason == "ended with status 7"


async def test_what_cannot_be_started_says_why(start: Started, tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed) as caught:
        await start(spec(tmp_path, "/no/such/engine", "serve"))
    assert caught.value.ended == Ended("could not be started: no such file or directory: /no/such/engine")


async def test_a_log_that_cannot_be_kept_is_a_failed_start(start: Started, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder is to be")
    with pytest.raises(LaunchFailed, match="could not be started: File exists"):
        await start(spec(tmp_path, "true"))


async def test_the_log_of_the_run_before_is_kept_beside(start: Started, tmp_path: Path) -> None:
    for text in ("first", "second"):
        await ended(await start(spec(tmp_path, "echo", text)))
    logs = tmp_path / "logs"
    assert {log.name: log.read_text() for log in logs.iterdir()} == {
        "worker.log": "second\n",
        "worker.log.1": "first\n",
    }


async def test_a_log_has_a_bound(start: Started, tmp_path: Path) -> None:
    worker = await start(spec(tmp_path, *python("print(('x' * 999 + '\\n') * 1000)"), log_max_bytes=2**16))
    assert (await ended(worker)).reason == "ended with status 0"
    sizes = [log.stat().st_size for log in (tmp_path / "logs").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 2**17  # it is cut between two spans that were read


@pytest.mark.parametrize("before", ["the worker starts", "the worker is up"])
async def test_nothing_outlives_a_router_that_is_killed(tmp_path: Path, before: str) -> None:
    wanted = spec(tmp_path, *python(FAMILY))
    router = f"""
import asyncio, os, pathlib, sys
from launchers.processes import FAMILY, python, spec
from sglang_diffusion_routing.launchers.process import WorkerProcess
async def run():
    worker = await WorkerProcess.start(spec(pathlib.Path({str(tmp_path)!r}), *python(FAMILY), token={wanted.token!r}))
    while {before == "the worker is up"} and not worker.tail(1):
        await asyncio.sleep(0.01)
    print("go", flush=True)
    await asyncio.sleep(1000)
asyncio.run(run())
"""
    process = await asyncio.create_subprocess_exec(
        *python(router),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *sys.path])},
    )
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"go\n"
            process.kill()
            await process.wait()
            await asyncio.to_thread(eventually_equal, lambda: alive(wanted.token), set())
    finally:
        end(wanted.token)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (1 << 8, "ended with status 1"),
        (9, "was killed by SIGKILL"),
        (11 | 128, "was killed by SIGSEGV"),
        (33, "was killed by signal 33"),
    ],
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert describe(status) == words


def test_the_tail_is_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail_of(log, 3) == ()
    log.write_text("".join(f"line {number} {'x' * 90}\n" for number in range(1000)))
    assert [line.split()[1] for line in tail_of(log, 3)] == ["997", "998", "999"]
    assert all(line.startswith("line ") for line in tail_of(log, 1000))
    log.write_bytes(b"\xff\n")
    assert tail_of(log, 3) == ("\ufffd",)


async def test_a_start_that_is_called_off_leaves_nothing(tmp_path: Path) -> None:
    wanted = spec(tmp_path, *python(FAMILY))
    starting = asyncio.ensure_future(WorkerProcess.start(wanted))
    while not alive(wanted.token):  # noqa: ASYNC110 - it is to be cancelled as early as can be
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert not alive(wanted.token)
