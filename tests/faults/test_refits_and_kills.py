"""Routers that are killed at each instant of a refit, and what the next one makes of it (docs/state.md)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.client import Client, request
from support.deadlines import eventually
from support.durable import call, restored, start
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

Pair = tuple[SimInThread, SimInThread]

DISK, LORA, MERGE = "/update_weights_from_disk", "/v1/set_lora", "/v1/merge_lora_weights"
DUMB = {"only_paths": ["/get_weights_checksum"], "fail_next": 1000}
"""A worker that does not say what its weights are."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def workers() -> Iterator[Pair]:
    """Two workers that take a while over a refit."""
    settings = SimSettings(refit_seconds=0.4)
    with SimInThread(settings) as one, SimInThread(settings) as two:
        yield one, two


def weights(worker: SimInThread) -> str:
    """Say what a worker really has."""
    return worker.worker.model.transformer_checksum


def group(router: RouterProcess) -> dict[str, Any]:
    (found,) = router.get("/weights")["groups"].values()
    return dict(found)


def refit(router: RouterProcess, version: str, route: str = DISK) -> None:
    assert call(router, "POST", f"{route}?weight_version={version}", body_of(version, route))[0] == 200


def body_of(version: str, route: str) -> dict[str, Any]:
    if route == LORA:
        return {"lora_nickname": version, "lora_path": f"hub/{version}"}
    return {"strength": 0.3} if route == MERGE else {"model_path": f"sim/{version}"}


def knows_checksums(found: dict[str, Any]) -> bool:
    return bool(found["checksums"])


def refit_known(router: RouterProcess, version: str) -> None:
    """Load a checkpoint, and wait until the router could tell it by its checksums."""
    refit(router, version)
    eventually(lambda: group(router), lambda found: found["target"] == version and knows_checksums(found))


def begin(router: RouterProcess, version: str, route: str = DISK) -> str:
    """Ask for a refit, and come back as soon as a worker loads the weights; give its id."""
    with Client(router.port) as trainer:
        body = json.dumps(body_of(version, route)).encode()
        head = f"{route}?weight_version={version}".encode()
        trainer.send(request(b"POST", head, b"Content-Type: application/json", body=body))
        eventually(router.statuses, lambda statuses: "updating" in statuses.values())
        (newest,) = router.get("/refits?limit=1")["refits"]
    return str(newest["id"])


def ends(router: RouterProcess, refit_id: str, status: str) -> None:
    eventually(lambda: router.get(f"/refits/{refit_id}")["refit"]["status"], lambda found: found == status)


def serve(router: RouterProcess, version: str, *workers: SimInThread) -> None:
    """Wait until these serve what the fleet should have, and all of them really have the same."""
    eventually(router.statuses, lambda found: [found[worker.url] for worker in workers] == ["active"] * len(workers))
    versions = {row["worker_url"]: row["weight_version"] for row in group(router)["workers"]}
    assert (group(router)["target"], group(router)["open"]) == (version, None)
    assert {versions[worker.url] for worker in workers} == {version}
    assert len({weights(worker) for worker in workers}) == 1


# Over, and known by its checksums.


def test_a_target_counts_again_once_a_worker_has_shown_that_it_has_it(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v7")
        router.kill()
    # It comes back with what it started with, while nobody looks.
    two.restart()
    with start(path) as again:
        assert "2 workers, 1 weight target and" in restored(again)
        serve(again, "v7", one, two)
        assert (group(again)["sequence"], group(again)["unproven"]) == (1, False)


def test_a_target_is_proven_by_a_worker_that_is_drained_by_hand(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v1")
        assert call(router, "PUT", f"/workers/{one.url}", {"state": "drained"})[0] == 200
        router.kill()
    two.restart()
    with start(path) as again:
        serve(again, "v1", two)
        assert (again.statuses()[one.url], weights(two)) == ("draining", weights(one))


def test_a_target_is_proven_by_workers_that_sleep(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v1")
        assert call(router, "POST", "/release_memory_occupation", {})[0] == 200
        router.kill()
    with start(path) as again:
        eventually(lambda: group(again)["unproven"], lambda unproven: not unproven)
        assert set(again.statuses().values()) == {"sleeping"}
        assert call(again, "POST", "/resume_memory_occupation", {})[0] == 200
        serve(again, "v1", one, two)


def test_a_target_whose_last_worker_was_removed_is_sent_to_the_next(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url,)) as router:
        router.wait_until_healthy(1)
        refit_known(router, "v1")
        assert call(router, "DELETE", f"/workers/{one.url}?force=true")[0] == 200
        router.kill()
    with start(path) as again:
        assert "0 workers, 1 weight target and" in restored(again)
        assert call(again, "POST", "/workers", {"url": two.url})[0] in {200, 201}
        serve(again, "v1", two)
        assert weights(two) == weights(one)


# Over, and its checksums not known.


def test_a_target_that_nobody_can_tell_is_sent_again(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        one.worker.set_faults(**DUMB)
        two.worker.set_faults(**DUMB)
        refit(router, "v1")
        router.kill()
    two.restart()
    with start(path) as again:
        assert "2 workers, 1 weight target and 0 jobs from" in restored(again)
        serve(again, "v1", one, two)


def test_checksums_that_a_worker_owed_when_it_fell_asleep_are_learned_in_its_sleep(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        one.worker.set_faults(**DUMB)
        two.worker.set_faults(**DUMB)
        refit(router, "v1")
        assert call(router, "POST", "/release_memory_occupation", {})[0] == 200
        assert not knows_checksums(group(router))
        one.worker.set_faults(fail_next=0)
        eventually(lambda: group(router), knows_checksums)
        assert set(router.statuses().values()) == {"sleeping"}


# Under way.


@pytest.mark.parametrize("route", [DISK, LORA])
def test_a_refit_that_the_routers_death_has_cut_is_carried_to_its_end(path: Path, workers: Pair, route: str) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_id = begin(router, "v8", route)
        router.kill()
    with start(path) as again:
        assert "and 1 unfinished refit from" in restored(again)
        ends(again, refit_id, "succeeded")
        serve(again, "v8", one, two)


def test_a_lora_on_a_checkpoint_that_was_cut_is_carried_to_its_end(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v1")
        refit_id = begin(router, "v2", LORA)
        router.kill()
    with start(path) as again:
        ends(again, refit_id, "succeeded")
        serve(again, "v2", one, two)


def test_what_cannot_be_sent_twice_is_taken_back_where_it_was_cut(path: Path, workers: Pair) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v1")
        refit(router, "v2", LORA)
        eventually(lambda: group(router), knows_checksums)
        wanted = weights(one)
        refit_id = begin(router, "v3", MERGE)
        router.kill()
    # It reaches all of them, and nobody has v2 any more.
    eventually(lambda: {weights(one), weights(two)}, lambda found: wanted not in found)
    with start(path) as again:
        ends(again, refit_id, "interrupted")
        serve(again, "v2", one, two)
        assert weights(one) == wanted


def test_a_refit_that_was_cut_waits_for_a_worker_that_sleeps_and_leaves_the_turn_to_others(
    path: Path, workers: Pair
) -> None:
    one, two = workers
    with start(path, workers=(one.url, two.url)) as router:
        router.wait_until_healthy(2)
        refit_known(router, "v1")
        asleep = call(router, "POST", f"/release_memory_occupation?selector={one.url}", {})
        assert asleep[0] == 200
        refit_id = begin(router, "v2")
        router.kill()
    two.stop()
    with start(path) as again:
        eventually(lambda: again.get(f"/refits/{refit_id}")["refit"]["reason"], lambda reason: "as soon as" in reason)
        assert call(again, "POST", f"{DISK}?weight_version=v3", body_of("v3", DISK))[0] == 503
        assert call(again, "POST", "/resume_memory_occupation", {})[0] == 200
        ends(again, refit_id, "succeeded")
        serve(again, "v2", one)
