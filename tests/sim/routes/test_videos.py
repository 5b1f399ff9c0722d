from typing import Any

import httpx2
import pytest

from sim.conftest import Running, Start
from support.deadlines import eventually, eventually_equal

pytestmark = pytest.mark.loopback

MODEL = "sim/wan2.1-t2v-1.3b"


def ended(wan: Running, created: httpx2.Response) -> dict[str, Any]:
    path = f"/v1/videos/{created.json()['id']}"
    return eventually(lambda: wan.get(path).json(), lambda job: job["status"] in {"completed", "failed"})


def test_a_new_video_is_queued(wan: Running) -> None:
    reply = wan.video()
    body = reply.json()
    video_id, created_at, path = body.pop("id"), body.pop("created_at"), body.pop("file_path")
    assert (reply.status_code, created_at > 0, path.endswith(f"/{video_id}.mp4")) == (200, True, True)
    assert body == {
        "object": "video",
        "model": MODEL,
        "status": "queued",
        "progress": 0,
        "size": "64x64",
        "seconds": "0",
        "quality": "standard",
        "url": None,
        "urls": None,
        "remixed_from_video_id": None,
        "completed_at": None,
        "expires_at": None,
        "error": None,
        "file_paths": None,
        "num_outputs": None,
        "peak_memory_mb": None,
        "inference_time_s": None,
        "revised_prompt": None,
        "action": None,
        "lidar": None,
    }


def test_a_finished_video_has_a_file_and_a_stamp(wan: Running) -> None:
    job = ended(wan, wan.video())
    assert {name: job[name] for name in ("status", "progress", "url", "urls", "num_outputs", "error")} == {
        "status": "completed",
        "progress": 100,
        "url": None,
        "urls": [None],
        "num_outputs": 1,
        "error": None,
    }
    assert job["file_paths"] == [job["file_path"]]
    assert job["completed_at"] >= job["created_at"]
    assert wan.get(f"/v1/videos/{job['id']}").headers["x-sim-weights"] == wan.checksums()["transformer"]


def test_content_is_an_mp4_with_ranges(wan: Running) -> None:
    job = ended(wan, wan.video())
    whole = wan.get(f"/v1/videos/{job['id']}/content")
    part = wan.get(f"/v1/videos/{job['id']}/content", headers={"range": "bytes=0-99"})
    assert (whole.status_code, whole.headers["content-type"], whole.headers["accept-ranges"]) == (
        200,
        "video/mp4",
        "bytes",
    )
    assert whole.headers["content-disposition"] == f'attachment; filename="{job["id"]}.mp4"'
    assert whole.content[4:12] == b"ftypisom"
    assert (part.status_code, part.content) == (206, whole.content[:100])
    assert part.headers["content-range"] == f"bytes 0-99/{len(whole.content)}"
    assert part.headers["etag"] == whole.headers["etag"]
    assert "last-modified" in whole.headers


def test_progress_is_told_while_the_next_one_waits(start: Start) -> None:
    wan = start(model="wan", overhead_seconds=1.0)
    first, second = wan.video(num_inference_steps=40), wan.video()
    early = wan.get(f"/v1/videos/{first.json()['id']}/content")
    assert (early.status_code, early.json()) == (404, {"detail": "Generation is still in-progress"})
    seen: list[list[tuple[str, int]]] = []

    def look() -> str:
        jobs = {job["id"]: (job["status"], job["progress"]) for job in wan.get("/v1/videos").json()["data"]}
        seen.append([jobs[reply.json()["id"]] for reply in (first, second)])
        status: str = seen[-1][0][0]
        return status

    eventually_equal(look, "completed")
    running = [one for one, _ in seen if one[0] == "in_progress"]
    assert [progress for _, progress in running] == sorted(progress for _, progress in running)
    assert len({progress for _, progress in running}) > 3
    assert max(progress for _, progress in running) <= 99
    assert {other for one, other in seen if one[0] == "in_progress"} == {("queued", 0)}


def test_a_deleted_video_is_unknown_and_its_work_goes_on(wan: Running) -> None:
    with wan.held():
        queued = wan.video().json()["id"]
        deleted = wan.client.delete(f"/v1/videos/{queued}")
    assert (deleted.status_code, deleted.json()["status"], deleted.json()["progress"]) == (200, "deleted", 0)
    for reply in (
        wan.get(f"/v1/videos/{queued}"),
        wan.get(f"/v1/videos/{queued}/content"),
        wan.client.delete(f"/v1/videos/{queued}"),
        wan.get("/v1/videos/nope"),
    ):
        assert (reply.status_code, reply.json()) == (404, {"detail": "Video not found"})
    finished = eventually(lambda: wan.state()["finished"], lambda entries: len(entries) == 3)[-1]
    assert (finished["id"], finished["kind"], finished["ok"]) == (queued, "video", True)


def test_the_list_shows_this_workers_jobs(wan: Running) -> None:
    assert wan.get("/v1/videos").json() == {
        "data": [],
        "object": "list",
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    job = ended(wan, wan.video())
    assert wan.get("/v1/videos").json() == {
        "data": [job],
        "object": "list",
        "first_id": job["id"],
        "last_id": job["id"],
        "has_more": False,
    }
    assert wan.get("/v1/videos?limit=0").status_code == 422
    assert wan.get("/v1/videos?order=random").status_code == 422


def test_several_outputs_are_variants(wan: Running) -> None:
    job = ended(wan, wan.video(n=2))
    assert job["num_outputs"] == len(job["file_paths"]) == len(job["urls"]) == 2
    contents = [wan.get(f"/v1/videos/{job['id']}/content?variant={index}").content for index in range(2)]
    assert contents[0] != contents[1]
    missing = wan.get(f"/v1/videos/{job['id']}/content?variant=2")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Video variant 2 not found"})


def test_a_form_is_read_as_json_is(wan: Running) -> None:
    form = {"prompt": "a dog", "size": "64x64", "num_frames": "5", "num_inference_steps": "2", "seed": "2"}
    reply = wan.post("/v1/videos", files={name: (None, value) for name, value in form.items()})
    assert (reply.status_code, reply.json()["size"], reply.json()["status"]) == (200, "64x64", "queued")
    without = wan.post("/v1/videos", files={"size": (None, "64x64")})
    assert (without.status_code, without.json()) == (400, {"detail": "prompt is required"})


def test_the_length_follows_from_seconds_and_frames_per_second(wan: Running) -> None:
    assert wan.video(num_frames=None, seconds=2, fps=4).json()["seconds"] == "2"
    assert wan.video(num_frames=17, fps=16).json()["seconds"] == "1"


def test_an_unknown_model_is_shown_and_ignored(wan: Running) -> None:
    reply = wan.video(model="no/such")
    assert (reply.status_code, reply.json()["model"]) == (200, "no/such")
    assert ended(wan, reply)["status"] == "completed"


@pytest.mark.parametrize(("content", "shown"), [("{", "{}"), ('{"size":"64x64"}', "{'size': '64x64'}"), ("[1]", "{}")])
def test_bad_bodies_are_refused_as_recorded(wan: Running, content: str, shown: str) -> None:
    reply = wan.post("/v1/videos", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["detail"].startswith(
        "Invalid request body: 1 validation error for VideoGenerationsRequest\nprompt\n"
        f"  Field required [type=missing, input_value={shown}, input_type=dict]\n"
        "    For further information visit https://errors.pydantic.dev/"
    )


@pytest.mark.parametrize("form", [False, True])
def test_an_image_model_makes_no_videos(sim: Running, *, form: bool) -> None:
    fields = {"prompt": "a cat", "size": "64x64", "num_frames": "5"}
    reply = (
        sim.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})
        if form
        else sim.post("/v1/videos", json={"prompt": "a cat"})
    )
    assert (reply.status_code, reply.json()) == (
        400,
        {"detail": "This pipeline does not support VIDEO output; supported task types: ['T2I']"},
    )


def test_a_broken_model_fails_its_jobs(wan: Running) -> None:
    wan.sim.faults(broken=True)
    job = ended(wan, wan.video())
    assert (job["status"], job["progress"], job["file_path"]) == ("failed", 0, None)
    assert job["error"] == {
        "message": "Model generation failed. Error from scheduler: "
        f"Error executing request {job['id']}: the simulated model is broken"
    }
    content = wan.get(f"/v1/videos/{job['id']}/content")
    assert (content.status_code, content.json()) == (404, {"detail": "Video variant None not found"})


def test_a_picture_is_refused_by_a_model_that_takes_none(wan: Running) -> None:
    reply = wan.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": ("a.png", b"png")})
    assert (reply.status_code, reply.json()) == (400, {"detail": "input_reference is not supported for T2V models."})
