import threading
import time
from pathlib import Path

import httpx2
import pytest

from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.weights import write_checkpoint
from sglang_diffusion_routing.sim.worker import CannotDie, Worker
from sim.conftest import Running, Start
from support.deadlines import eventually, eventually_equal

pytestmark = pytest.mark.loopback


def asleep(sim: Running) -> Running:
    assert sim.post("/release_memory_occupation").json()["sleeping"] is True
    return sim


def kinds(sim: Running) -> list[str]:
    return [entry["kind"] for entry in sim.state()["finished"]]


def in_background(call: object, *args: object) -> threading.Thread:
    assert callable(call)
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    return thread


def test_everything_that_needs_the_scheduler_waits_in_one_queue(sim: Running, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new", 1)
    calls = [
        ("image", sim.image),
        ("stats", lambda: sim.get("/stats")),
        ("rollout", sim.rollout),
        ("checksum", lambda: sim.post("/get_weights_checksum", json={})),
        ("refit", lambda: sim.post("/update_weights_from_disk", json={"model_path": str(tmp_path / "new")})),
        ("release", lambda: sim.post("/release_memory_occupation")),
        ("resume", lambda: sim.post("/resume_memory_occupation")),
    ]
    threads = []
    with sim.held():
        for position, (_, call) in enumerate(calls):
            threads.append(in_background(call))
            eventually_equal(lambda: sim.state()["queued"], position + 1)
        paths = ("/health", "/liveness", "/v1/models", "/model_info", "/v1/videos")
        assert [sim.get(path).status_code for path in paths] == [200] * 5
        assert (sim.state()["running"], sim.state()["queued"]) == ("held", len(calls))
    for thread in threads:
        thread.join(10.0)
    assert kinds(sim)[2:] == [kind for kind, _ in calls]


def test_a_generation_runs_on_the_weights_that_are_loaded_when_its_turn_comes(sim: Running, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new", 1)
    replies: list[httpx2.Response] = []
    calls = [
        lambda: replies.append(sim.image()),
        lambda: sim.post("/update_weights_from_disk", json={"model_path": str(tmp_path / "new")}),
        lambda: replies.append(sim.image()),
    ]
    old, threads = sim.checksums()["transformer"], []
    with sim.held():
        for position, call in enumerate(calls):
            threads.append(in_background(call))
            eventually_equal(lambda: sim.state()["queued"], position + 1)
    for thread in threads:
        thread.join(10.0)
    new = sim.checksums()["transformer"]
    assert [reply.headers["x-sim-weights"] for reply in replies] == [old, new]
    assert old != new


def test_work_goes_on_after_its_client_has_left(sim: Running) -> None:
    with sim.held():
        for _ in range(2):
            with pytest.raises(httpx2.ReadTimeout):
                sim.image(timeout_s=0.1)
        assert sim.state()["queued"] == 2
    assert sim.image().status_code == 200
    assert [(entry["kind"], entry["ok"]) for entry in sim.state()["finished"]][2:] == [("image", True)] * 3


def test_running_work_goes_on_after_its_client_has_left(start: Start) -> None:
    sim = start(overhead_seconds=0.5)
    with pytest.raises(httpx2.ReadTimeout):
        sim.image(timeout_s=0.2)
    eventually_equal(lambda: [(entry["kind"], entry["ok"]) for entry in sim.state()["finished"]], [("image", True)])


def test_a_generation_takes_time_by_its_pixels_steps_and_outputs(start: Start) -> None:
    sim = start(seconds_per_mpx_step=1.0, overhead_seconds=0.05)
    # 0.01 megapixels x 4 steps x 3 outputs x 1 s, and the overhead
    started_s = time.monotonic()
    taken_s = sim.image(size="100x100", n=3).json()["inference_time_s"]
    assert 0.17 <= taken_s <= time.monotonic() - started_s
    assert taken_s < 0.4


def test_the_event_loop_can_be_blocked_by_a_generation(start: Start) -> None:
    sim = start(overhead_seconds=0.6, block_event_loop=1.0)
    thread = in_background(sim.image)
    eventually(lambda: _health_seconds(sim), lambda seconds: seconds > 0.2)
    thread.join(10.0)


def _health_seconds(sim: Running) -> float:
    started_s = time.monotonic()
    sim.get("/health")
    return time.monotonic() - started_s


def test_sleep_is_idempotent_and_invisible(sim: Running) -> None:
    before = [sim.get(path).json() for path in ("/health", "/model_info")]
    assert [sim.post("/release_memory_occupation").json() for _ in range(2)] == [
        {"success": True, "sleeping": True, "message": "released GPU memory (moved active modules to CPU)"},
        {"success": True, "sleeping": True, "message": "already sleeping"},
    ]
    assert [sim.get(path).json() for path in ("/health", "/model_info")] == before
    assert [sim.post("/resume_memory_occupation").json() for _ in range(2)] == [
        {"success": True, "sleeping": False, "message": "no restore map; marked awake"},
        {"success": True, "sleeping": False, "message": "already awake"},
    ]
    assert sim.image().status_code == 200


def test_a_sleeping_worker_fails_each_kind_of_work_in_its_own_way(sim: Running) -> None:
    asleep(sim)
    reason = "Server is sleeping. Call resume_memory_occupation first."
    image, rollout = sim.image(), sim.rollout()
    assert (image.status_code, image.text) == (500, "Internal Server Error")
    assert (rollout.status_code, rollout.json()) == (500, {"detail": reason})
    vertex = sim.post("/vertex_generate", json={"instances": [{"prompt": "a cat"}]})
    assert (vertex.status_code, vertex.json()) == (200, {"predictions": [{"error": reason}]})
    refit = sim.post("/update_weights_from_disk", json={"model_path": "sim/x"})
    assert (refit.status_code, refit.json()) == (
        500,
        {
            "success": False,
            "message": "Cannot update weights while the server is sleeping. Call resume_memory_occupation first.",
        },
    )
    assert list(sim.checksums()) == ["transformer", "vae", "text_encoder_3", "text_encoder_2", "text_encoder"]


def test_a_sleeping_worker_accepts_a_video_and_fails_it(wan: Running) -> None:
    created = asleep(wan).video()
    assert (created.status_code, created.json()["status"]) == (200, "queued")
    job = eventually(
        lambda: wan.get(f"/v1/videos/{created.json()['id']}").json(), lambda job: job["status"] != "queued"
    )
    assert (job["status"], job["file_path"], job["error"]) == (
        "failed",
        None,
        {
            "message": "Model generation failed. Error from scheduler: "
            "Server is sleeping. Call resume_memory_occupation first."
        },
    )


def test_a_broken_model_lies_about_its_health(sim: Running) -> None:
    sim.sim.faults(broken=True)
    assert sim.get("/health").json() == {"status": "ok"}
    assert (sim.image().status_code, sim.rollout().status_code) == (500, 500)
    assert sim.rollout().json()["detail"].endswith(": the simulated model is broken")


def test_too_large_an_image_fails_in_the_engine(sim: Running) -> None:
    assert (sim.image(size="4096x4096").status_code, sim.image(size="4096x4096").text) == (500, "Internal Server Error")


def test_more_than_the_memory_holds_fails_in_the_engine(wan: Running) -> None:
    reply = wan.rollout(width=2048, height=2048, num_frames=81)
    assert (reply.status_code, "out of memory" in reply.text) == (500, True)


def test_refusals_are_for_the_tests_of_others(sim: Running) -> None:
    before = sim.checksums()
    sim.sim.faults(refuse_refits=True, refuse_release=True)
    refit = sim.post("/update_weights_from_disk", json={"model_path": "sim/x"})
    release = sim.post("/release_memory_occupation")
    assert [(reply.status_code, reply.json()["success"]) for reply in (refit, release)] == [(400, False)] * 2
    assert (sim.checksums(), sim.state()["sleeping"]) == (before, False)
    sim.sim.faults(refuse_release=False, refuse_resume=True)
    asleep(sim)
    assert sim.post("/resume_memory_occupation").json() == {
        "success": False,
        "sleeping": True,
        "message": "waking is refused (a simulated fault)",
    }


def test_lora_edits_are_refused_like_refits(sim: Running) -> None:
    before = sim.checksums()
    sim.sim.faults(refuse_refits=True)
    reply = sim.post("/v1/set_lora", json={"lora_nickname": "a", "lora_path": "hub/a"})
    assert (reply.status_code, reply.json()) == (
        500,
        {"detail": "Failed to set LoRA adapter: refits are refused (a simulated fault)"},
    )
    assert sim.checksums() == before


def test_a_refused_refit_may_have_spoilt_the_weights(sim: Running) -> None:
    before = sim.checksums()
    sim.sim.faults(spoil_refits=True)
    reply = sim.post("/update_weights_from_disk", json={"model_path": "sim/x"})
    assert (reply.status_code, reply.json()["success"]) == (400, False)
    after = sim.checksums()
    assert {module for module in before if before[module] != after[module]} == {"transformer"}


def test_lora_edits_take_as_long_as_refits(start: Start) -> None:
    sim = start(refit_seconds=0.2)
    assert sim.post("/v1/set_lora", json={"lora_nickname": "a", "lora_path": "hub/a"}).status_code == 200
    (entry,) = sim.state()["finished"]
    assert entry["kind"] == "lora"
    assert 0.2 <= entry["finished_s"] - entry["started_s"] < 1.0


def test_faults_can_be_in_force_from_the_start(start: Start) -> None:
    sim = start(faults='{"refuse_refits": true}')
    assert sim.post("/update_weights_from_disk", json={"model_path": "sim/x"}).status_code == 400
    assert sim.state()["faults"]["refuse_refits"] is True


def test_the_scheduler_may_die_with_work_in_it(start: Start) -> None:
    sim = start(overhead_seconds=30.0)
    replies: dict[str, httpx2.Response] = {}
    threads = [
        in_background(lambda: replies.update(image=sim.image())),
        in_background(lambda: replies.update(rollout=sim.rollout())),
    ]
    eventually_equal(lambda: (bool(sim.state()["running"]), sim.state()["queued"]), (True, 1))
    sim.sim.faults(scheduler_dead=True)
    for thread in threads:
        thread.join(10.0)
    assert (replies["image"].status_code, replies["image"].text) == (500, "Internal Server Error")
    assert (replies["rollout"].status_code, replies["rollout"].json()) == (
        500,
        {"detail": "Generation failed: Scheduler worker exited; restart the server."},
    )


async def test_a_worker_without_a_process_cannot_be_told_to_die() -> None:
    worker = Worker(SimSettings())
    for fault in ("die", "die_in_generation"):
        with pytest.raises(CannotDie):
            worker.set_faults(**{fault: True})
    assert not worker.faults.die


def test_a_worker_can_die_half_way_through_a_generation(start: Start) -> None:
    sim = start(overhead_seconds=0.1)
    sim.sim.faults(die_in_generation=True)
    with pytest.raises(httpx2.TransportError):
        sim.rollout()
    with pytest.raises(httpx2.ConnectError):
        sim.get("/health")
