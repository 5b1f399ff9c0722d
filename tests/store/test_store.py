"""What is put is on disk, once, and outlives its process."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.errors import StateCorrupt, StateInUse, StateUnusable
from sglang_diffusion_routing.store import Saved, SavedJob, SavedRefit, SavedWorker, Store
from sglang_diffusion_routing.store import store as module
from store import values
from support.mounts import mounted

A, B = SavedWorker(1, "http://a"), SavedWorker(2, "http://b", asleep=True)
CAP = 1000


def job(name: str) -> SavedJob:
    return SavedJob("video", name, "http://a", 1, 5e9)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if happened():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(
    path: Path, *, resume: bool = False, clean: bool = False, job_cap: int = CAP
) -> AsyncIterator[tuple[Store, Saved | None]]:
    store, saved = Store.open(path, resume=resume, job_cap=job_cap)
    store.start()
    try:
        yield store, saved
    finally:
        await store.close(clean=clean)


async def left(path: Path) -> Saved | None:
    """Read what the next router would restore, and change nothing."""
    store, saved = Store.open(path, resume=True, job_cap=CAP)
    await store.close(clean=False)
    return saved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "router.db"


async def test_what_was_put_is_restored_after_an_end_that_was_not_in_order(path: Path) -> None:
    async with opened(path) as (store, saved):
        assert (saved, store.last_registration) == (None, 0)
        store.put_worker(A)
        store.put_worker(B)
        store.put_job(job("1"))
        assert await store.flush()
    async with opened(path) as (store, saved):
        assert (saved, store.last_registration) == (Saved(workers=(A, B), jobs=(job("1"),)), 2)


async def test_an_end_in_order_leaves_nothing_to_restore(path: Path) -> None:
    async with opened(path, clean=True) as (store, _):
        store.put_worker(A)
    async with opened(path) as (_, saved):
        assert saved is None
    assert await left(path) is None


async def test_an_end_in_order_is_restored_when_that_is_asked_for(path: Path) -> None:
    async with opened(path, clean=True) as (store, _):
        store.put_worker(A)
    async with opened(path, resume=True) as (_, saved):
        assert saved == Saved(workers=(A,))


async def test_a_start_that_fails_leaves_what_there_is_to_restore(path: Path) -> None:
    async with opened(path, clean=True) as (store, _):
        store.put_worker(A)
    for _ in range(2):
        store, saved = Store.open(path, resume=False, job_cap=CAP)
        store.put_worker(B)
        await store.close(clean=False)
        assert saved is None
    assert await left(path) == Saved(workers=(A,))


async def test_what_is_put_while_it_closes_is_written(path: Path) -> None:
    async with opened(path) as (store, _):
        await store.flush()
        store.put_job(job("1"))
    assert await left(path) == Saved(jobs=(job("1"),))


async def test_a_flush_of_nothing_does_not_wait(path: Path) -> None:
    async with opened(path) as (store, _):
        await store.flush()
        with pytest.raises(StopIteration) as done:
            store.flush().send(None)
        assert done.value.value is True


async def test_owners_of_jobs_are_written_soon_although_nobody_waits(path: Path) -> None:
    async with opened(path) as (store, _):
        for number in range(10):
            store.put_job(job(str(number)))
        await until(lambda: store.unsaved == 0)


async def test_a_store_that_is_open_keeps_others_out(path: Path) -> None:
    async with opened(path):
        with pytest.raises(StateInUse, match=str(os.getpid())):
            Store.open(path, resume=False, job_cap=CAP)
        path.with_name("alias.db").symlink_to(path)
        with pytest.raises(StateInUse):
            Store.open(path.with_name("alias.db"), resume=False, job_cap=CAP)
    await left(path)


def test_a_file_that_cannot_be_used_is_let_go(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1000)
    for _ in range(2):
        with pytest.raises(StateCorrupt):
            Store.open(path, resume=False, job_cap=CAP)
    path.unlink()
    assert asyncio.run(left(path)) is None


def test_a_place_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match=rf"cannot be made: {tmp_path}/file is no directory"):
        Store.open(tmp_path / "file" / "state.db", resume=False, job_cap=CAP)


async def test_closing_twice_and_putting_after_it_do_no_harm(path: Path) -> None:
    async with opened(path) as (store, _):
        store.put_worker(A)
        await store.close(clean=False)
        store.put_worker(B)
        assert not await store.flush()
    assert await left(path) == Saved(workers=(A,))


async def test_a_group_is_kept_as_it_was_when_it_was_put(path: Path) -> None:
    group = Group("v1", 1, {"v1": 1})
    async with opened(path) as (store, _):
        store.put_group("g", group)
        group.raised["v2"] = 2
        await store.flush()
        saved = Saved(groups={"g": Group("v1", 1, {"v1": 1})})
    assert await left(path) == saved


Change = tuple[str, object]
changes = st.one_of(
    st.tuples(st.just("put_worker"), values.workers),
    st.tuples(st.just("drop_worker"), st.integers(1, 5)),
    st.tuples(st.just("put_group"), st.tuples(values.names, values.groups())),
    st.tuples(st.just("put_refit"), values.refits),
    st.tuples(st.just("put_job"), values.jobs),
    st.tuples(st.just("drop_job"), st.tuples(values.names, values.names)),
    st.tuples(st.sampled_from(["flush", "reopen"]), st.none()),
)


class Model:
    """What a store must hold: the last value of everything."""

    def __init__(self) -> None:
        self.workers: dict[int, SavedWorker] = {}
        self.groups: dict[str, Group] = {}
        self.refits: dict[str, SavedRefit] = {}
        self.jobs: dict[tuple[str, str], SavedJob] = {}

    def change(self, what: str, value: object) -> None:
        match what, value:
            case "put_worker", SavedWorker(registration=number) as worker:
                self.workers[number] = worker
            case "drop_worker", int(number):
                self.workers.pop(number, None)
            case "put_group", (str(name), Group() as group):
                self.groups[name] = group
            case "put_refit", SavedRefit(refit_id=name) as refit:
                self.refits[name] = refit
            case "put_job", SavedJob(kind=kind, job_id=name) as found:
                self.jobs[kind, name] = found
            case "drop_job", (str(kind), str(name)):
                self.jobs.pop((kind, name), None)

    @property
    def saved(self) -> Saved:
        return Saved(
            tuple(self.workers[number] for number in sorted(self.workers)),
            self.groups,
            tuple(self.refits.values()),
            tuple(sorted(self.jobs.values(), key=lambda found: found.expires_unix_s)),
        )


def put(store: Store, what: str, value: object) -> None:
    arguments = value if isinstance(value, tuple) else (value,)
    getattr(store, what)(*arguments)


def by_name(saved: Saved | None) -> Saved:
    """Jobs that expire at the same instant have no order."""
    saved = saved or Saved()
    return Saved(saved.workers, saved.groups, saved.refits, tuple(sorted(saved.jobs, key=repr)))


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=25))
async def test_the_last_value_of_everything_is_there_after_any_changes(taken: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder) / "state.db", Model()
        store, _ = Store.open(path, resume=False, job_cap=CAP)
        store.start()
        for what, value in taken:
            if what == "flush":
                assert await store.flush()
            elif what == "reopen":
                await store.close(clean=False)
                store, saved = Store.open(path, resume=False, job_cap=CAP)
                assert by_name(saved) == by_name(model.saved)
                store.start()
            else:
                # A history only grows: what a group was raised to before is never taken back.
                if what == "put_group" and value[0] in model.groups:  # type: ignore[index]
                    continue
                put(store, what, value)
                model.change(what, value)
        await store.close(clean=False)
        assert by_name(await left(path)) == by_name(model.saved)


async def test_a_full_disk_costs_no_value_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    with mounted(size_bytes=2**20) as mount, capture_logs() as logs:
        path = mount.path / "state.db"
        async with opened(path) as (store, _):
            store.put_worker(A)
            assert await store.flush()
            mount.fill()
            for number in range(CAP + 500):
                store.put_job(job(f"{number:0100}"))
            assert not await store.flush()
            store.drop_worker(1)
            store.put_worker(B)
            assert not await store.flush()
            assert 0 < store.unsaved <= CAP + 2
            await until(lambda: store.failures > 2)
            mount.free()
            await until(lambda: store.unsaved == 0)
            assert await store.flush()
        saved = await left(path)
        assert saved is not None
        assert saved.workers == (B,)
        assert {found.job_id for found in saved.jobs} == {f"{number:0100}" for number in range(500, CAP + 500)}
    assert [entry["event"] for entry in logs] == ["state_not_saved", "state_saved_again"]
    assert logs[0]["reason"] == "cannot be written: the disk is full"


async def test_a_disk_that_stays_full_does_not_hold_up_the_end() -> None:
    with mounted(size_bytes=2**20) as mount, capture_logs() as logs:
        path = mount.path / "state.db"
        async with opened(path, clean=True) as (store, _):
            store.put_worker(A)
            assert await store.flush()
            mount.fill()
            for number in range(CAP):
                store.put_job(job(f"{number:0100}"))
        mount.free()
        assert await left(path) == Saved(workers=(A,))
    assert [entry["event"] for entry in logs][:1] == ["state_not_saved"]


async def test_a_worker_that_comes_and_goes_while_the_disk_is_full_leaves_nothing_to_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as (store, _):
        await store.flush()
        monkeypatch.setattr(store._file, "write", full)
        store.put_worker(A)
        assert not await store.flush()
        for number in range(3, 5000):
            store.put_worker(SavedWorker(number, "http://x"))
            store.drop_worker(number)
        assert store.unsaved == 1


def full(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_fault_of_our_own_does_not_end_the_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    async with opened(path) as (store, _):
        await store.flush()
        write, calls = store._file.write, []

        def odd(*batch: object, **keep: object) -> None:
            calls.append(batch)
            if len(calls) < 3:
                raise TypeError("odd")
            write(*batch, **keep)  # type: ignore[arg-type]

        monkeypatch.setattr(store._file, "write", odd)
        with capture_logs() as logs:
            store.put_worker(A)
            assert not await store.flush()
            await until(lambda: store.unsaved == 0)
    assert await left(path) == Saved(workers=(A,))
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "state_writer_failed",
        "state_not_saved",
        "state_writer_failed",
    ]


async def test_what_came_while_a_batch_failed_wins_over_the_batch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    async with opened(path) as (store, _):
        store.put_worker(B)
        await store.flush()
        write, begun, go = store._file.write, threading.Event(), threading.Event()

        def fail_once(*batch: object, **keep: object) -> None:
            monkeypatch.setattr(store._file, "write", write)
            begun.set()
            assert go.wait(10)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(store._file, "write", fail_once)
        store.put_worker(A)
        store.put_worker(replace(B, held=True))
        await until(begun.is_set)
        store.put_worker(replace(A, held=True))
        go.set()
        await until(lambda: store.unsaved == 0)
    assert await left(path) == Saved(workers=(replace(A, held=True), replace(B, held=True)))


async def test_a_worker_that_goes_while_it_is_being_written_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as (store, _):
        await store.flush()
        write, begun, go = store._file.write, threading.Event(), threading.Event()

        def slow(*batch: object, **keep: object) -> None:
            begun.set()
            assert go.wait(10)
            write(*batch, **keep)  # type: ignore[arg-type]

        monkeypatch.setattr(store._file, "write", slow)
        store.put_worker(A)
        await until(begun.is_set)
        store.drop_worker(1)
        go.set()
        assert await store.flush()
    assert await left(path) is None


async def test_a_slow_disk_lets_whoever_waits_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(path) as (store, _):
        await store.flush()
        write, go = store._file.write, threading.Event()

        def slow(*batch: object, **keep: object) -> None:
            assert go.wait(10)
            write(*batch, **keep)  # type: ignore[arg-type]

        monkeypatch.setattr(store._file, "write", slow)
        store.put_worker(A)
        with capture_logs() as logs:
            assert not await store.flush(within_s=0.05)
        assert [entry["event"] for entry in logs] == ["state_is_slow"]
        store.put_worker(B)
        go.set()
        assert await store.flush()
    assert await left(path) == Saved(workers=(A, B))


WRITER = """
import asyncio, sys, pathlib
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.store import SavedJob, SavedWorker, Store

async def main() -> None:
    # A worker, a group and a job of each round are one batch: after any end, all of a round are there or none.
    store, saved = Store.open(pathlib.Path(sys.argv[1]), resume=False, job_cap=1000)
    store.start()
    round = 0 if saved is None else saved.groups["g"].sequence
    while True:
        round += 1
        with store._changed:
            store.put_worker(SavedWorker(1, f"http://{round}"))
            store.put_group("g", Group(f"v{round}", round, {f"v{n}": n for n in range(max(1, round - 50), round + 1)}))
            store.put_job(SavedJob("video", str(round), "http://a", 1, 4e9 + round))
        assert await store.flush()
        print(round, flush=True)

asyncio.run(main())
"""


def test_a_kill_at_any_point_of_writing_leaves_a_whole_state(path: Path) -> None:
    rng, told = random.Random(7), 0
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout is not None
        try:
            for _ in range(rng.randrange(1, 40)):
                told = int(writer.stdout.readline())
            # Somewhere in what follows; waiting is what is wanted here, not a condition.
            time.sleep(rng.random() * 0.004)
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            writer.wait(10)
            writer.stdout.close()
        told = int(rest[-1]) if rest else told
        saved = asyncio.run(left(path))
        assert saved is not None
        reached = saved.groups["g"].sequence
        assert told <= reached <= told + 1
        assert saved.workers == (SavedWorker(1, f"http://{reached}"),)
        assert list(saved.groups["g"].raised.values()) == list(range(max(1, reached - 50), reached + 1))
        assert [found.job_id for found in saved.jobs] == [str(n) for n in range(max(1, reached - 999), reached + 1)]
