import base64
import io

import pytest
from PIL import Image

from sim.conftest import Running

pytestmark = pytest.mark.loopback

# the fields of a real prediction
FIELDS = (
    "output raw_frame_batches raw_frame_content_type raw_frame_metadata audio audio_sample_rate fps "
    "action_pred action_mode action_domain_id action_raw_action_dim trajectory_timesteps trajectory_latents "
    "rollout_trajectory_data trajectory_decoded error output_file_paths output_image_bytes lidar metrics "
    "metrics_list noise_pred peak_memory_mb usage"
)


def test_each_instance_gets_a_prediction(sim: Running) -> None:
    reply = sim.post(
        "/vertex_generate",
        json={"instances": [{"prompt": "a cat"}, {"text": "a dog"}], "parameters": {"width": 64, "height": 64}},
    )
    predictions = reply.json()["predictions"]
    assert [sorted(prediction) for prediction in predictions] == [sorted(FIELDS.split())] * 2
    assert predictions[0]["output"] != predictions[1]["output"]
    image = Image.open(io.BytesIO(base64.b64decode(predictions[0]["output"])))
    assert (image.format, image.size) == ("PNG", (64, 64))
    assert reply.headers["x-sim-weights"] == sim.checksums()["transformer"]


def test_no_instances_give_no_predictions(sim: Running) -> None:
    reply = sim.post("/vertex_generate", json={"instances": []})
    assert (reply.status_code, reply.json()) == (200, {"predictions": []})
    assert "x-sim-weights" not in reply.headers


def test_errors_are_inside_a_200(sim: Running) -> None:
    sim.sim.faults(broken=True)
    reply = sim.post("/vertex_generate", json={"instances": [{"prompt": "a cat"}]})
    (prediction,) = reply.json()["predictions"]
    assert (reply.status_code, list(prediction)) == (200, ["error"])
    assert prediction["error"].endswith(": the simulated model is broken")


def test_a_video_model_predicts_its_first_frame(wan: Running) -> None:
    parameters = {"width": 64, "height": 64, "num_frames": 5}
    reply = wan.post("/vertex_generate", json={"instances": [{"prompt": "a"}], "parameters": parameters})
    assert Image.open(io.BytesIO(base64.b64decode(reply.json()["predictions"][0]["output"]))).size == (64, 64)
