import pytest
from fastapi import FastAPI

from sglang_diffusion_routing.sim.app import create_app
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.core

# every route in /openapi.json of SGLang-Diffusion 0.5.23 serving Stable Diffusion 3
REAL = """
GET /health
GET /health_generate
GET /liveness
GET /model_info
GET /models
GET /server_info
GET /stats
GET /v1/images/{image_id}/content
GET /v1/list_loras
GET /v1/meshes
GET /v1/meshes/{mesh_id}
GET /v1/meshes/{mesh_id}/content
GET /v1/model_info
GET /v1/models
GET /v1/models/{model}
GET /v1/videos
GET /v1/videos/{video_id}
GET /v1/videos/{video_id}/content
DELETE /v1/meshes/{mesh_id}
DELETE /v1/videos/{video_id}
POST /get_weights_checksum
POST /release_memory_occupation
POST /resume_memory_occupation
POST /rollout/generate
POST /update_weights_from_disk
POST /update_weights_from_tensor
POST /update_weights_from_tensor_checker
POST /v1/images/edits
POST /v1/images/generations
POST /v1/merge_lora_weights
POST /v1/meshes
POST /v1/set_lora
POST /v1/unmerge_lora_weights
POST /v1/videos
POST /vertex_generate
"""


@pytest.fixture
def app() -> FastAPI:
    return create_app(SimSettings())


def test_the_routes_are_those_of_a_real_worker(app: FastAPI) -> None:
    described = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert described == set(REAL.split("\n")) - {""}


def test_the_workers_state_hangs_on_the_app(app: FastAPI) -> None:
    assert app.state.worker.settings == SimSettings()
