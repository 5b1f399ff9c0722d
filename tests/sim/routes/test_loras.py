import pytest

from sim.conftest import Running

pytestmark = pytest.mark.loopback


def test_an_adapter_can_be_set_unmerged_and_merged(sim: Running) -> None:
    base = sim.checksums()["transformer"]
    put = sim.post("/v1/set_lora", json={"lora_nickname": "a", "lora_path": "hub/a"})
    assert (put.status_code, put.json()) == (
        200,
        {"status": "ok", "message": "Successfully set LoRA adapter(s): a (target: all, strength: 1.00)"},
    )
    merged = sim.checksums()["transformer"]
    assert sim.image().headers["x-sim-weights"] == merged != base
    assert sim.get("/v1/list_loras").json()["loaded_adapters"] == [{"nickname": "a", "path": "hub/a"}]
    assert sim.post("/v1/unmerge_lora_weights", json={}).json() == {
        "status": "ok",
        "message": "Successfully unmerged LoRA weights (target: all)",
    }
    assert sim.checksums()["transformer"] == base
    assert sim.post("/v1/merge_lora_weights", json={"strength": 1.0}).json() == {
        "status": "ok",
        "message": "Successfully merged LoRA weights (target: all, strength: 1.0)",
    }
    assert sim.checksums()["transformer"] == merged


def test_several_adapters_have_a_strength_each(sim: Running) -> None:
    reply = sim.post(
        "/v1/set_lora",
        json={
            "lora_nickname": ["a", "b"],
            "lora_path": ["hub/a", "hub/b"],
            "strength": [0.5, 1],
            "target": "transformer",
        },
    )
    assert (
        reply.json()["message"] == "Successfully set LoRA adapter(s): a, b (target: transformer, strength: 0.50, 1.00)"
    )
    active = sim.get("/v1/list_loras").json()["active"]["transformer"][0]
    assert (active["nicknames"], active["strengths"]) == (["a", "b"], [0.5, 1.0])


def test_no_nickname_is_refused_as_recorded(sim: Running) -> None:
    reply = sim.post("/v1/set_lora", json={})
    assert (reply.status_code, reply.json()) == (
        422,
        {"detail": [{"type": "missing", "loc": ["body", "lora_nickname"], "msg": "Field required", "input": None}]},
    )


def test_an_adapter_that_cannot_be_set_is_an_error_of_the_server(sim: Running) -> None:
    before = sim.checksums()
    reply = sim.post("/v1/set_lora", json={"lora_nickname": "a"})
    assert (reply.status_code, reply.json()) == (
        500,
        {
            "detail": "Failed to set LoRA adapter: "
            "Adapter a not found in the pipeline. Please provide lora_path to load it."
        },
    )
    assert sim.checksums() == before


def test_nothing_is_loaded_at_first(sim: Running) -> None:
    assert sim.get("/v1/list_loras").json() == {"loaded_adapters": [], "active": {}}


def test_a_dead_scheduler_lists_nothing(sim: Running) -> None:
    sim.sim.faults(scheduler_dead=True)
    reply = sim.get("/v1/list_loras")
    assert (reply.status_code, reply.json()) == (500, {"detail": "Scheduler worker exited; restart the server."})
