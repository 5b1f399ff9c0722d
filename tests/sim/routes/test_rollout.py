import math
from typing import Any

import msgpack
import numpy as np
import pytest

from sglang_diffusion_routing.sim.tensors import Array, from_safetensors
from sim.conftest import Running, Start

pytestmark = pytest.mark.loopback


def entries(sim: Running, **changes: Any) -> list[dict[str, Any]]:
    reply = sim.rollout(**changes)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/msgpack")
    decoded: list[dict[str, Any]] = msgpack.unpackb(reply.content)
    return decoded


def shape(value: Any) -> Any:
    """Show tensors by size, shape and type, and everything else as it is."""
    if isinstance(value, dict) and value.get("__tensor__"):
        return (len(value["data"]), value["shape"], value["dtype"])
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return value


def array(value: dict[str, Any]) -> Array:
    return from_safetensors(value["data"])["t"]


DEBUG = {
    "rollout_variance_noises": (16464, [4, 16, 8, 8], "torch.float32"),
    "rollout_prev_sample_means": (16464, [4, 16, 8, 8], "torch.float32"),
    "rollout_noise_std_devs": (88, [4, 1], "torch.float32"),
    "rollout_model_outputs": (16464, [4, 16, 8, 8], "torch.float32"),
}
EMBEDDINGS = {
    "pooled_projections": (200, [1, 64], "torch.float16"),
    "encoder_hidden_states": (85328, [1, 333, 64], "torch.float32"),
}


def test_a_reply_has_the_fields_and_the_size_of_a_real_one(sim: Running) -> None:
    reply = sim.rollout()
    (entry,) = msgpack.unpackb(reply.content)
    request_id, seconds = entry.pop("request_id"), entry.pop("inference_time_s")
    assert len(request_id) == 36
    assert seconds > 0
    assert shape(entry) == {
        "prompt": "a cat",
        "seed": 1,
        "generated_output": (49224, [3, 64, 64], "torch.float32"),
        "rollout_log_probs": (80, [4], "torch.float32"),
        "rollout_debug_tensors": DEBUG,
        "denoising_env": None,
        "dit_trajectory": None,
        "peak_memory_mb": None,
    }
    assert len(reply.content) == 99384
    assert reply.headers["x-sim-weights"] == sim.checksums()["transformer"]


def test_everything_that_can_be_asked_for_comes(sim: Running) -> None:
    asked = {"rollout_return_denoising_env": True, "rollout_return_dit_trajectory": True, "num_outputs_per_prompt": 2}
    first, second = entries(sim, **asked)
    assert first["request_id"] == second["request_id"]
    assert (first["prompt"], first["seed"]) == (second["prompt"], second["seed"]) == ("a cat", 1)
    for entry in (first, second):
        assert shape(entry["dit_trajectory"]) == {
            "latents": (20560, [5, 16, 8, 8], "torch.float32"),
            "timesteps": (84, [5], "torch.float32"),
            "sigmas": (84, [5], "torch.float32"),
        }
        assert shape(entry["denoising_env"]) == {
            "image_kwargs": None,
            "pos_cond_kwargs": EMBEDDINGS,
            "neg_cond_kwargs": EMBEDDINGS,
            "guidance": None,
        }
    assert first["generated_output"] != second["generated_output"]


def test_log_probabilities_can_be_recomputed_from_the_reply(sim: Running) -> None:
    (entry,) = entries(sim, rollout_return_dit_trajectory=True, num_inference_steps=10)
    latents = array(entry["dit_trajectory"]["latents"]).astype(float)
    means = array(entry["rollout_debug_tensors"]["rollout_prev_sample_means"])
    stds = array(entry["rollout_debug_tensors"]["rollout_noise_std_devs"])
    expected = [
        np.mean(-((latents[step + 1] - means[step]) ** 2) / (2 * std**2)) - math.log(std) - 0.5 * math.log(2 * math.pi)
        for step, std in enumerate(stds[:, 0].astype(float))
    ]
    np.testing.assert_allclose(array(entry["rollout_log_probs"]), expected, rtol=0, atol=1e-5)


def test_without_rollout_only_the_output_comes(sim: Running) -> None:
    reply = sim.rollout(rollout=False)
    (entry,) = msgpack.unpackb(reply.content)
    assert {name for name, value in entry.items() if value is not None} == {
        "request_id",
        "prompt",
        "seed",
        "generated_output",
        "inference_time_s",
    }
    assert len(reply.content) == 49477


def test_debug_tensors_can_be_left_out(sim: Running) -> None:
    (entry,) = entries(sim, rollout_debug_mode=False)
    assert entry["rollout_debug_tensors"] is None
    assert shape(entry["rollout_log_probs"]) == (80, [4], "torch.float32")


def test_every_sde_type_is_known(sim: Running) -> None:
    cps, ode = (
        entries(sim, rollout_sde_type=kind, rollout_log_prob_no_const=True)[0]["rollout_log_probs"]
        for kind in ("cps", "ode")
    )
    assert (array(cps)[:3] < 0).all()
    assert array(cps)[3] == 0  # to level 0: a point, no spread
    assert array(ode).tolist() == [0.0] * 4


def test_a_video_rollout_has_frames(wan: Running) -> None:
    reply = wan.rollout(num_frames=5, num_inference_steps=2)
    (entry,) = msgpack.unpackb(reply.content)
    assert entry["generated_output"]["shape"] == [3, 5, 64, 64]
    assert entry["rollout_debug_tensors"]["rollout_model_outputs"]["shape"] == [2, 16, 2, 8, 8]
    assert len(wan.rollout(num_frames=5, num_inference_steps=2, rollout=False).content) == 246096


def test_without_a_seed_it_fails_after_the_work_is_done(sim: Running) -> None:
    reply = sim.rollout(seed=None)
    assert (reply.status_code, reply.text) == (500, "Internal Server Error")
    assert [(entry["kind"], entry["ok"]) for entry in sim.state()["finished"]] == [("rollout", True)]


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        (
            {"rollout_sde_type": "bogus"},
            400,
            "Invalid sampling params: 400: rollout_sde_type must be one of ('sde', 'cps', 'ode'), got 'bogus'",
        ),
        ({"width": -1}, 400, "Invalid sampling params: 400: width must be positive"),
        (
            {"rollout_noise_level": -0.5},
            400,
            "Invalid sampling params: 400: rollout_noise_level must be non-negative, got -0.5",
        ),
        (
            {"image_path": ["/a.png"]},
            400,
            "Invalid sampling params: 400: input_reference is not supported for T2I models.",
        ),
    ],
)
def test_bad_parameters_are_refused_as_recorded(
    sim: Running, changes: dict[str, Any], status: int, detail: str
) -> None:
    reply = sim.rollout(**changes)
    assert (reply.status_code, reply.json()) == (status, {"detail": detail})


def test_a_noise_level_that_is_no_number_is_refused(sim: Running) -> None:
    body = '{"prompt":"a","rollout_noise_level":NaN}'
    reply = sim.post("/rollout/generate", content=body, headers={"content-type": "application/json"})
    assert reply.json() == {"detail": "Invalid sampling params: 400: rollout_noise_level must be finite, got nan"}


def test_a_log_probability_that_does_not_exist_fails_in_the_engine(sim: Running) -> None:
    reply = sim.rollout(rollout_noise_level=0.0)
    assert reply.status_code == 500
    assert reply.json()["detail"].startswith("Error executing request ")
    assert reply.json()["detail"].endswith("True log-probability computation requires a non-zero noise level.")


def test_a_missing_prompt_is_refused_as_recorded(sim: Running) -> None:
    reply = sim.post("/rollout/generate", json={"seed": 1})
    assert (reply.status_code, reply.json()) == (
        422,
        {"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": {"seed": 1}}]},
    )


def test_replies_can_be_padded(start: Start) -> None:
    (entry,) = entries(start(pad_reply_bytes=100_000))
    assert len(entry["sim_padding"]) == 100_000


def test_two_workers_give_the_same_tensors(start: Start) -> None:
    replies = [entries(start(name=name))[0] for name in ("a", "b")]
    for entry in replies:
        del entry["request_id"], entry["inference_time_s"]
    assert replies[0] == replies[1]
