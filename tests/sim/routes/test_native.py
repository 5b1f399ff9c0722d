import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sim.conftest import Running, Start

pytestmark = pytest.mark.loopback


def generate(sim: Running, **changes: Any) -> dict[str, Any]:
    body = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 4, "seed": 1}
    reply = sim.post("/v1/diffusion/generate", json=body | changes)
    assert reply.status_code == 200
    assert reply.headers["x-sim-weights"] == sim.checksums()["transformer"]
    decoded: dict[str, Any] = reply.json()
    return decoded


def npy(text: str) -> Any:
    return np.load(io.BytesIO(base64.b64decode(text)))


def test_the_output_is_an_image(sim: Running) -> None:
    body = generate(sim)
    image = Image.open(io.BytesIO(base64.b64decode(body["output_b64"])))
    assert (image.format, image.size) == ("PNG", (64, 64))
    assert (body["prompt"], body["seed"], body["trajectory"]) == ("a cat", 1, None)
    assert body["inference_time_s"] > 0


def test_latents_and_log_probabilities_come_as_npy(sim: Running) -> None:
    trajectory = generate(sim, get_latents=True, get_log_probs=True)["trajectory"]
    latents, log_probs = npy(trajectory["latents"]), npy(trajectory["log_probs"])
    assert list(latents.shape) == trajectory["latents_shape"] == [1, 5, 16, 8, 8]
    assert list(log_probs.shape) == trajectory["log_probs_shape"] == [1, 4]
    assert [npy(timestep).item() for timestep in trajectory["timesteps"]][::4] == [1000.0, 0.0]
    assert (trajectory["latents_dtype"], trajectory["log_probs_dtype"]) == ("float32", "float32")
    assert np.isfinite(log_probs).all()


def test_what_was_not_asked_for_is_null(sim: Running) -> None:
    latents_only = generate(sim, get_latents=True)["trajectory"]
    assert (latents_only["log_probs"], latents_only["latents_shape"]) == (None, [1, 5, 16, 8, 8])
    log_probs_only = generate(sim, get_log_probs=True)["trajectory"]
    assert (log_probs_only["latents"], log_probs_only["log_probs_shape"]) == (None, [1, 4])


def test_latents_of_a_plain_run_are_those_of_the_image(sim: Running) -> None:
    assert generate(sim, get_latents=True)["output_b64"] == generate(sim)["output_b64"]


def test_a_video_model_shows_its_first_frame(wan: Running) -> None:
    body = generate(wan, num_frames=5, get_latents=True)
    assert body["trajectory"]["latents_shape"] == [1, 5, 16, 2, 8, 8]
    assert Image.open(io.BytesIO(base64.b64decode(body["output_b64"]))).size == (64, 64)


def test_asleep_it_says_so(sim: Running) -> None:
    sim.post("/release_memory_occupation")
    reply = sim.post("/v1/diffusion/generate", json={"prompt": "a"})
    assert (reply.status_code, reply.json()) == (
        500,
        {"detail": "Server is sleeping. Call resume_memory_occupation first."},
    )


def test_replies_can_be_padded(start: Start) -> None:
    assert len(base64.b64decode(generate(start(pad_reply_bytes=1000))["sim_padding"])) == 1000
