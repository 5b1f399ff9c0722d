"""What a worker of a video model is asked: jobs from their making to their end, and what it refuses."""

from collections.abc import Mapping
from typing import Any

from engine.probes import ended, form, get, post, raw

TINY: Mapping[str, Any] = {"size": "64x64", "num_frames": 5, "num_inference_steps": 2, "seed": 1}
LONG: Mapping[str, Any] = {**TINY, "num_inference_steps": 600}  # runs on until the next requests are answered

SERVER = (
    get("models", "/v1/models"),
    get("model_info", "/model_info"),
    get("no videos yet", "/v1/videos"),
)

JOBS = (
    post("a video", "/v1/videos", prompt="a cat", **TINY),
    ended("the video when it has ended", "/v1/videos/{video}"),
    get("the video's file", "/v1/videos/{video}/content"),
    get("a range of the file", "/v1/videos/{video}/content", Range="bytes=0-9"),
    get("a range beyond the file", "/v1/videos/{video}/content", Range="bytes=99999999-"),
    get("a variant that is not there", "/v1/videos/{video}/content?variant=3"),
    get("the one video", "/v1/videos"),
    get("the videos after it", "/v1/videos?after={video}"),
    get("the first video", "/v1/videos?limit=1&order=asc"),
    get("a page without an end", "/v1/videos?limit=101"),
    get("an order unknown", "/v1/videos?order=any"),
    form(
        "a video by form",
        "/v1/videos",
        prompt=(None, b"a dog"),
        size=(None, b"64x64"),
        num_frames=(None, b"5"),
        num_inference_steps=(None, b"2"),
        seed=(None, b"1"),
    ),
    ended("the video by form when it has ended", "/v1/videos/{video}"),
    post("two videos of one prompt", "/v1/videos", prompt="a cat", num_outputs_per_prompt=2, **TINY),
    ended("both when they have ended", "/v1/videos/{video}"),
    get("the second one's file", "/v1/videos/{video}/content?variant=1"),
    get("deleting them", "/v1/videos/{video}", "DELETE"),
    get("deleting them again", "/v1/videos/{video}", "DELETE"),
    get("what was deleted", "/v1/videos/{video}"),
    get("a file of what was deleted", "/v1/videos/{video}/content"),
)

QUEUED = (
    post("a long video", "/v1/videos", prompt="slow", **LONG),
    post("a video behind it", "/v1/videos", prompt="a cat", **TINY),
    get("the waiting video", "/v1/videos/{video}"),
    get("the waiting video's file", "/v1/videos/{video}/content"),
    get("deleting the waiting video", "/v1/videos/{video}", "DELETE"),
    get("the waiting video once deleted", "/v1/videos/{video}"),
    ended("the long video", "/v1/videos/{earlier}"),
)

REFUSED = (
    raw("a video in bad JSON", "/v1/videos", b"{"),
    post("a video without a prompt", "/v1/videos", size="64x64"),
    form("a form without a prompt", "/v1/videos", size=(None, b"64x64")),
    post("a bad size", "/v1/videos", prompt="a cat", size="64by64"),
    post("no steps", "/v1/videos", prompt="a cat", num_inference_steps=0),
    post("a negative seed", "/v1/videos", prompt="a cat", size="64x64", seed=-1),
    post("an image to begin with", "/v1/videos", prompt="a cat", input_reference="/nowhere.png", **TINY),
    post("another model's name", "/v1/videos", prompt="a cat", model="nobody/nothing", **TINY),
    ended("another model's video", "/v1/videos/{video}"),
    post("an image of a video model", "/v1/images/generations", prompt="a cat", size="64x64"),
    post("a mesh of a video model", "/v1/meshes", prompt="a cat"),
)

SLEEP = (
    post("sleep", "/release_memory_occupation", {}),
    post("a video asleep", "/v1/videos", prompt="a cat", **TINY),
    ended("the video made asleep", "/v1/videos/{video}"),
    get("its file", "/v1/videos/{video}/content"),
    post("waking", "/resume_memory_occupation", {}),
    post("all checksums", "/get_weights_checksum", {}),
)

VIDEO_PROBES = (*SERVER, *JOBS, *QUEUED, *REFUSED, *SLEEP)
