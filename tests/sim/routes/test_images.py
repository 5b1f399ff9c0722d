import base64
import io
from typing import Any

import pytest
from PIL import Image

from sim.conftest import Running, Start

pytestmark = pytest.mark.loopback


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_an_image_comes_as_base64(sim: Running) -> None:
    reply = sim.image()
    body = reply.json()
    data = base64.b64decode(body["data"][0].pop("b64_json"))
    image_id, created, seconds = body.pop("id"), body.pop("created"), body.pop("inference_time_s")
    path = body["data"][0].pop("file_path")
    assert body == {
        "data": [{"url": None, "revised_prompt": "a cat", "resize": None}],
        "peak_memory_mb": None,
        "usage": None,
    }
    assert path.endswith(f"/{image_id}.jpg")
    assert (created > 0, seconds > 0) == (True, True)
    assert (opened(data).format, opened(data).size) == ("JPEG", (64, 64))
    assert reply.headers["x-sim-weights"] == sim.checksums()["transformer"]


def test_an_image_comes_as_a_relative_url_by_default(sim: Running) -> None:
    body = sim.post("/v1/images/generations", json={"prompt": "a cat", "width": 40, "height": 24}).json()
    assert body["data"][0]["url"] == f"/v1/images/{body['id']}/content"
    assert body["data"][0]["b64_json"] is None
    reply = sim.get(body["data"][0]["url"])
    assert (reply.status_code, reply.headers["content-type"], reply.headers["accept-ranges"]) == (
        200,
        "image/jpeg",
        "bytes",
    )
    assert reply.headers["content-disposition"] == f'attachment; filename="{body["id"]}.jpg"'
    assert {"etag", "last-modified", "x-sim-weights"} <= set(reply.headers)
    assert opened(reply.content).size == (40, 24)


def test_several_images_have_numbered_urls(sim: Running) -> None:
    body = sim.image(n=2, response_format="url").json()
    urls = [entry["url"] for entry in body["data"]]
    assert urls == [f"/v1/images/{body['id']}/content?variant={index}" for index in range(2)]
    first, second = (sim.get(url).content for url in urls)
    assert first != second
    for variant in ("2", "-1", "x"):
        missing = sim.get(f"/v1/images/{body['id']}/content?variant={variant}")
        assert (missing.status_code, missing.json()) == (404, {"detail": f"Image variant {variant} not found"})


def test_the_same_request_gives_the_same_image(sim: Running) -> None:
    images = [sim.image(**changes).json()["data"][0]["b64_json"] for changes in ({}, {}, {"seed": 2})]
    assert images[0] == images[1] != images[2]


# requests that a real worker refused, and how
REFUSED: list[tuple[dict[str, Any], int, Any]] = [
    (
        {"size": "64x64"},
        422,
        {
            "detail": [
                {"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": {"size": "64x64"}}
            ]
        },
    ),
    ({"prompt": "a", "response_format": "xml"}, 400, {"detail": "response_format=xml is not supported"}),
    ({"prompt": "a", "size": "banana"}, 400, {"detail": "size must be formatted as positive WIDTHxHEIGHT"}),
    ({"prompt": "a", "size": "0x64"}, 400, {"detail": "size must be formatted as positive WIDTHxHEIGHT"}),
    ({"prompt": "a", "num_inference_steps": -1}, 400, {"detail": "num_inference_steps must be positive"}),
    ({"prompt": "a", "width": 0}, 400, {"detail": "width must be positive"}),
    ({"prompt": "a", "seed": []}, 400, {"detail": "seed list must not be empty"}),
    ({"prompt": "a", "seed": [-1]}, 400, {"detail": "seed list must contain non-negative ints, got [-1]"}),
    ({"prompt": "a", "seed": -1}, 400, {"detail": "seed must be a non-negative int or list of ints, got -1"}),
]


@pytest.mark.parametrize(("body", "status", "answer"), REFUSED)
def test_bad_requests_are_refused_as_recorded(sim: Running, body: dict[str, Any], status: int, answer: Any) -> None:
    reply = sim.post("/v1/images/generations", json=body)
    assert (reply.status_code, reply.json()) == (status, answer)


def test_seeds_that_are_too_few_are_an_unhandled_error(sim: Running) -> None:
    reply = sim.image(n=2, seed=[1])
    assert (reply.status_code, reply.text) == (500, "Internal Server Error")


@pytest.mark.parametrize(
    ("wanted", "media_type", "kind"),
    [
        ({}, "image/jpeg", "JPEG"),
        ({"output_format": "jpeg"}, "image/jpeg", "JPEG"),
        ({"output_format": "png"}, "image/png", "PNG"),
        ({"output_format": "webp"}, "image/webp", "WEBP"),
        ({"output_format": "bmp"}, "image/jpeg", "JPEG"),
        ({"background": "transparent"}, "image/png", "PNG"),
    ],
)
def test_a_file_is_of_the_kind_that_was_asked_for(
    sim: Running, wanted: dict[str, str], media_type: str, kind: str
) -> None:
    made = sim.image(**wanted).json()
    file = sim.get(f"/v1/images/{made['id']}/content")
    assert (file.headers["content-type"], opened(file.content).format) == (media_type, kind)
    assert base64.b64decode(made["data"][0]["b64_json"]) == file.content


def test_a_field_of_the_wrong_type_is_refused(sim: Running) -> None:
    reply = sim.image(guidance_scale="strong")
    assert (reply.status_code, reply.json()["detail"][0]["loc"]) == (422, ["body", "guidance_scale"])


@pytest.mark.parametrize(
    ("content_type", "content", "detail"),
    [
        (
            "application/json",
            '{"prompt": ',
            {
                "type": "json_invalid",
                "loc": ["body", 11],
                "msg": "JSON decode error",
                "input": {},
                "ctx": {"error": "Expecting value"},
            },
        ),
        (
            "application/x-www-form-urlencoded",
            '{"prompt":"a cat"}',
            {
                "type": "model_attributes_type",
                "loc": ["body"],
                "msg": "Input should be a valid dictionary or object to extract fields from",
                "input": '{"prompt":"a cat"}',
            },
        ),
    ],
)
def test_bodies_that_are_no_json_are_refused_as_recorded(
    sim: Running, content_type: str, content: str, detail: dict[str, Any]
) -> None:
    reply = sim.post("/v1/images/generations", content=content, headers={"content-type": content_type})
    assert (reply.status_code, reply.json()) == (422, {"detail": [detail]})


def test_other_methods_are_refused(sim: Running) -> None:
    reply = sim.get("/v1/images/generations")
    assert (reply.status_code, reply.headers["allow"], reply.json()) == (405, "POST", {"detail": "Method Not Allowed"})


def test_an_unknown_model_and_unknown_fields_are_ignored(sim: Running) -> None:
    assert sim.image(model="no/such-model", unknown=1).status_code == 200


def test_an_unknown_image_is_not_found(sim: Running) -> None:
    reply = sim.get("/v1/images/nope/content")
    assert (reply.status_code, reply.json()) == (404, {"detail": "Image not found"})


def test_a_video_model_makes_no_images(wan: Running) -> None:
    reply = wan.image()
    assert (reply.status_code, reply.json()) == (
        400,
        {"detail": "This pipeline does not support IMAGE output; supported task types: ['T2V']"},
    )


def test_edits_need_an_image_and_a_model_that_takes_one(sim: Running) -> None:
    form = {"prompt": "a cat", "size": "64x64"}
    without = sim.post("/v1/images/edits", data=form)
    assert (without.status_code, without.json()) == (422, {"detail": "Field 'image' or 'url' is required"})
    given = sim.post("/v1/images/edits", data=form, files={"image": ("a.png", b"png")})
    assert (given.status_code, given.json()) == (400, {"detail": "input_reference is not supported for T2I models."})
    nameless = sim.post("/v1/images/edits", data={"size": "64x64"})
    assert (nameless.status_code, nameless.json()["detail"][0]["loc"]) == (422, ["body", "prompt"])


def test_an_edit_depends_on_the_image_given(start: Start) -> None:
    sim = start(model="edit")

    def edit(field: str, image: bytes) -> str:
        form = {"prompt": "a cat", "size": "64x64", "num_inference_steps": "2", "seed": "1"}
        reply = sim.post("/v1/images/edits", data=form, files={field: ("a.png", image)})
        assert (reply.status_code, reply.json()["data"][0]["revised_prompt"]) == (200, "a cat")
        image_data: str = reply.json()["data"][0]["b64_json"]
        return image_data

    assert edit("image", b"one") == edit("image[]", b"one") != edit("image", b"two")
    by_url = sim.post("/v1/images/edits", data={"prompt": "a", "size": "64x64", "url": "http://x/y.png"})
    assert by_url.status_code == 200


def test_replies_can_be_padded(start: Start) -> None:
    reply = start(pad_reply_bytes=100_000).image()
    assert len(base64.b64decode(reply.json()["sim_padding"])) == 100_000
