import hashlib

import pytest

from sim.conftest import Running

pytestmark = pytest.mark.loopback


def test_faults_are_set_one_by_one_and_shown(sim: Running) -> None:
    before = sim.get("/sim/faults").json()
    assert sim.post("/sim/faults", json={"fail_next": 2, "slow_factor": 3}).json() == before | {
        "fail_next": 2,
        "slow_factor": 3.0,
    }
    assert sim.post("/sim/faults", json={"slow_factor": 1}).json() == before | {"fail_next": 2}


@pytest.mark.parametrize("body", [{"unknown": 1}, {"fail_next": -1, "hang": True}, []])
def test_a_bad_fault_changes_nothing(sim: Running, body: object) -> None:
    before = sim.get("/sim/faults").json()
    assert sim.post("/sim/faults", json=body).status_code == 422
    assert sim.get("/sim/faults").json() == before
    assert sim.get("/health").status_code == 200


def test_the_state_tells_what_a_real_worker_hides(sim: Running) -> None:
    sim.rollout(num_outputs_per_prompt=3)
    state = sim.state()
    (finished,) = state.pop("finished")
    for variable in ("pid", "name", "gpu_uuid", "requests", "faults"):
        del state[variable]
    assert state == {
        "sleeping": False,
        "warm": True,
        "scheduler_failure": None,
        "queued": 0,
        "running": None,
        "done": 1,
        "weights": sim.checksums()["transformer"],
    }
    assert finished["queued_s"] <= finished["started_s"] <= finished["finished_s"]
    assert (finished["kind"], finished["samples"], finished["ok"]) == ("rollout", 3, True)
    assert finished["weights"] == state["weights"]


def test_the_mirror_shows_a_request_as_it_came(sim: Running) -> None:
    headers = [("X-Twice", "a"), ("X-Twice", "b"), ("Content-Type", "text/plain")]
    reply = sim.client.request("PUT", "/sim/echo/a%20b?x=1&x=2", headers=headers, content=b"body")
    shown = reply.json()
    assert [value for name, value in shown["headers"] if name == "x-twice"] == ["a", "b"]
    del shown["headers"]
    assert shown == {
        "method": "PUT",
        "path": "/sim/echo/a%20b",
        "query": "x=1&x=2",
        "http_version": "1.1",
        "body_bytes": 4,
        "body_sha256": hashlib.sha256(b"body").hexdigest(),
    }


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_come_with_a_length_or_chunked(sim: Running, *, chunked: bool) -> None:
    reply = sim.get(f"/sim/bytes/70001?chunked={chunked}")
    assert reply.content == (bytes(range(256)) * 274)[:70001]
    assert reply.headers.get("content-length") == (None if chunked else "70001")
    assert sim.get("/sim/bytes/-1").status_code == 422
