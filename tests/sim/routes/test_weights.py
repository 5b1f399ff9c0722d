import base64
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_diffusion_routing.sim.tensors import to_safetensors
from sglang_diffusion_routing.sim.weights import tensor_checksum, write_checkpoint
from sim.conftest import Running, Start
from support.deadlines import eventually_equal

pytestmark = pytest.mark.loopback

MODULES = ["transformer", "vae", "text_encoder_3", "text_encoder_2", "text_encoder"]
DISK, TENSOR = "/update_weights_from_disk", "/update_weights_from_tensor"
GAIN = np.full(16, 0.5, dtype=np.float32)
PAYLOAD = base64.b64encode(to_safetensors({"style.gain": GAIN})).decode()


def no(message: str) -> dict[str, Any]:
    return {"success": False, "message": message}


def test_a_refit_changes_the_checksum_and_the_images(sim: Running, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new", 1)
    before, image = sim.checksums(), sim.image().json()["data"][0]["b64_json"]
    reply = sim.post(DISK, json={"model_path": str(tmp_path / "new")})
    assert (reply.status_code, reply.json()) == (
        200,
        {"success": True, "message": f"Updated 5 modules ({', '.join(MODULES)})."},
    )
    assert [name for name in MODULES if sim.checksums()[name] == before[name]] == []
    assert sim.image().json()["data"][0]["b64_json"] != image
    assert sim.get("/model_info").json()["model_path"] == "sim/stable-diffusion-3-medium"


def test_refits_that_a_real_worker_refused_are_refused_alike(sim: Running) -> None:
    before = sim.checksums()
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "model_path is required"),
        (
            {"model_path": "/nonexistent/model"},
            (
                "Failed to download model: Could not find model at /nonexistent/model and failed to download from "
                "Hugging Face Hub: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
                "'/nonexistent/model'. Use `repo_type` argument if needed."
            ),
        ),
        (
            {"model_path": "sim/x", "target_modules": ["nope"]},
            f"Module(s) requested for update not found in pipeline: ['nope']. Available Module(s): {MODULES}",
        ),
    ]
    for body, message in cases:
        reply = sim.post(DISK, json=body)
        assert (reply.status_code, reply.json()) == (400, no(message))
    assert sim.checksums() == before


@pytest.mark.parametrize("path", [DISK, TENSOR, "/get_weights_checksum", "/update_weights_from_tensor_checker"])
def test_a_body_that_is_no_json_is_an_unhandled_error(sim: Running, path: str) -> None:
    for content in (b"{", b""):
        reply = sim.post(path, content=content)
        assert (reply.status_code, reply.text) == (500, "Internal Server Error")


def test_tensors_are_loaded_from_the_body(sim: Running) -> None:
    reply = sim.post(TENSOR, json={"serialized_named_tensors": [PAYLOAD]})
    assert (reply.status_code, reply.json()) == (
        200,
        {"success": True, "message": "Updated 1 modules from tensor (transformer)."},
    )
    check = {"target_module": "transformer", "expected_named_tensors_sha256": {"style.gain": tensor_checksum(GAIN)}}
    verified = sim.post("/update_weights_from_tensor_checker", json=check)
    assert (verified.status_code, verified.json()) == (
        200,
        {"success": True, "message": "Verified module 'transformer' update for 1 tensor(s)."},
    )


def test_a_payload_is_chosen_by_the_workers_gpu(start: Start) -> None:
    sim = start(name="w3")
    assert sim.state()["gpu_uuid"] == "GPU-w3"
    chosen = sim.post(
        TENSOR, json={"serialized_named_tensors": ["AAAA", PAYLOAD], "payload_gpu_uuids": ["GPU-other", "W3"]}
    )
    assert chosen.json()["success"] is True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "serialized_named_tensors is required"),
        ({"serialized_named_tensors": []}, "serialized_named_tensors is required"),
        ({"serialized_named_tensors": "AAAA"}, "serialized_named_tensors must be a list"),
        (
            {"serialized_named_tensors": ["AAAA"]},
            "Failed to deserialize serialized_named_tensors: invalid load key, '\\x00'.",
        ),
        (
            {"serialized_named_tensors": ["AAAA", "AAAA"]},
            "serialized_named_tensors size must be 1 or world_size (1), got 2",
        ),
        (
            {"serialized_named_tensors": ["AAAA"], "payload_gpu_uuids": []},
            "payload_gpu_uuids needs one entry per payload, got 0 for 1 payloads",
        ),
        (
            {"serialized_named_tensors": ["AAAA"], "payload_gpu_uuids": ["GPU-x"]},
            "no payload was exported from this worker's GPU w1, got ['GPU-x']",
        ),
        (
            {"serialized_named_tensors": [PAYLOAD], "weight_update_mode": "lora_merge"},
            "weight_update_mode 'lora_merge' is not simulated",
        ),
    ],
)
def test_tensor_payloads_that_do_not_fit_are_refused(start: Start, body: dict[str, Any], message: str) -> None:
    sim = start(name="w1")
    before = sim.checksums()
    reply = sim.post(TENSOR, json=body)
    assert (reply.status_code, reply.json()) == (400, no(message))
    assert sim.checksums() == before


def test_tensors_are_taken_asleep_as_well(sim: Running) -> None:
    sim.post("/release_memory_occupation")
    garbage = sim.post(TENSOR, json={"serialized_named_tensors": ["AAAA"]})
    assert (garbage.status_code, garbage.json()["success"]) == (400, False)
    assert sim.post(TENSOR, json={"serialized_named_tensors": [PAYLOAD]}).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "target_module is required"),
        ({"target_module": "transformer"}, "expected_named_tensors_sha256 is required"),
        ({"target_module": "nope", "expected_named_tensors_sha256": {"a": "0"}}, "Module 'nope' is not initialized"),
    ],
)
def test_the_checker_refuses_what_it_cannot_check(sim: Running, body: dict[str, Any], message: str) -> None:
    reply = sim.post("/update_weights_from_tensor_checker", json=body)
    assert (reply.status_code, reply.json()) == (400, no(message))


def test_checksums_come_for_all_modules_or_those_named(sim: Running) -> None:
    checksums = sim.checksums()
    assert list(checksums) == MODULES
    assert {len(checksum) for checksum in checksums.values()} == {64}
    one = sim.post("/get_weights_checksum", json={"module_names": ["transformer", "nope"]})
    assert one.json() == {"transformer": checksums["transformer"], "nope": "not_found"}


def test_a_video_model_lists_its_modules_in_its_own_order(wan: Running) -> None:
    assert list(wan.checksums()) == ["vae", "transformer", "text_encoder"]


def test_a_dead_scheduler_fails_what_waits_for_it(start: Start) -> None:
    sim = start(refit_seconds=60.0)
    replies = []
    paths = {DISK: {"model_path": "sim/x"}, "/get_weights_checksum": {}, "/release_memory_occupation": {}}
    threads = []
    for path, body in paths.items():
        threads.append(threading.Thread(target=lambda p=path, b=body: replies.append((p, sim.post(p, json=b)))))
        threads[-1].start()
        eventually_equal(lambda: bool(sim.state()["running"]) + sim.state()["queued"], len(threads))
    sim.sim.faults(scheduler_dead=True)
    for thread in threads:
        thread.join(10.0)
    reason = "Scheduler worker exited; restart the server."
    assert {path: (reply.status_code, reply.json()) for path, reply in replies} == {
        DISK: (500, no(reason)),
        "/get_weights_checksum": (500, {"error": reason}),
        "/release_memory_occupation": (500, no(reason)),
    }
