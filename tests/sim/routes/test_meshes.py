from typing import Any

import pytest

from sim.conftest import Running, Start
from support.deadlines import eventually

pytestmark = pytest.mark.loopback


@pytest.fixture
def mesh(start: Start) -> Running:
    return start(model="mesh")


def test_a_mesh_is_a_job_made_from_an_image(mesh: Running) -> None:
    reply = mesh.post("/v1/meshes", json={"input_image": "data:image/png;base64,AAAA", "num_inference_steps": 2})
    body = reply.json()
    mesh_id, created_at, path = body.pop("id"), body.pop("created_at"), body.pop("file_path")
    assert (reply.status_code, created_at > 0, path.endswith(f"/{mesh_id}.glb")) == (200, True, True)
    assert body == {
        "object": "mesh",
        "model": "",
        "status": "queued",
        "progress": 0,
        "format": "glb",
        "url": None,
        "completed_at": None,
        "expires_at": None,
        "error": None,
        "file_size_bytes": None,
        "peak_memory_mb": None,
        "inference_time_s": None,
    }
    job = eventually(lambda: mesh.get(f"/v1/meshes/{mesh_id}").json(), lambda job: job["status"] == "completed")
    content = mesh.get(f"/v1/meshes/{mesh_id}/content")
    assert (content.status_code, content.headers["content-type"]) == (200, "model/gltf-binary")
    assert (content.content[:4], len(content.content)) == (b"glTF", job["file_size_bytes"])
    assert content.headers["x-sim-weights"] == mesh.checksums()["transformer"]
    assert mesh.get("/v1/meshes").json()["data"] == [job]
    assert mesh.client.delete(f"/v1/meshes/{mesh_id}").json()["status"] == "deleted"
    gone = mesh.get(f"/v1/meshes/{mesh_id}")
    assert (gone.status_code, gone.json()) == (404, {"detail": "Mesh not found"})


def test_an_upload_will_do(mesh: Running) -> None:
    reply = mesh.post("/v1/meshes", data={"num_inference_steps": "2"}, files={"image": ("a.png", b"png")})
    assert (reply.status_code, reply.json()["status"]) == (200, "queued")


def test_before_it_is_done_there_is_no_content(mesh: Running) -> None:
    with mesh.held():
        created = mesh.post("/v1/meshes", json={"input_image": "x"}).json()
        reply = mesh.get(f"/v1/meshes/{created['id']}/content")
    assert (reply.status_code, reply.json()) == (404, {"detail": "Mesh output is not available"})


@pytest.mark.parametrize(
    ("request_parts", "detail"),
    [
        ({"json": {}}, "An input image is required for mesh generation"),
        ({"files": {"seed": (None, "1")}}, "Field 'image' or 'url' is required for mesh generation"),
    ],
)
def test_an_image_is_needed(mesh: Running, request_parts: dict[str, Any], detail: str) -> None:
    reply = mesh.post("/v1/meshes", **request_parts)
    assert (reply.status_code, reply.json()) == (422, {"detail": detail})


def test_other_models_make_no_meshes(sim: Running) -> None:
    reply = sim.post("/v1/meshes", json={"input_image": "x"})
    assert (reply.status_code, reply.json()) == (400, {"detail": "input_reference is not supported for T2I models."})


def test_a_sleeping_worker_fails_the_job(mesh: Running) -> None:
    mesh.post("/release_memory_occupation")
    mesh_id = mesh.post("/v1/meshes", json={"input_image": "x"}).json()["id"]
    job = eventually(lambda: mesh.get(f"/v1/meshes/{mesh_id}").json(), lambda job: job["status"] != "queued")
    assert (job["status"], job["file_size_bytes"]) == ("failed", None)
