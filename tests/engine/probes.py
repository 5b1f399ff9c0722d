"""One request for each thing that a worker can be asked and each way in which it can refuse, in an order that fits."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

SMALL: Mapping[str, Any] = {"size": "64x64", "num_inference_steps": 2, "seed": 1}
ROLLOUT: Mapping[str, Any] = {"prompt": "a cat", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 2}
JSON = "application/json"
PREFLIGHT = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A request; `{image}` in its target is the id of the last image made, `{path}` in its body a checkpoint.

    Attributes:
        body: sent as it stands.
        form: sent as multipart instead.
    """

    name: str
    method: str
    target: str
    body: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, tuple[str | None, bytes]] | None = None


def get(name: str, target: str, method: str = "GET", **headers: str) -> Probe:
    return Probe(name, method, target, headers=headers)


def post(name: str, target: str, document: Any = None, /, **fields: Any) -> Probe:
    """A POST with a JSON body: `document`, or else the fields."""
    return Probe(name, "POST", target, json.dumps(fields if document is None else document).encode(), JSON)


def raw(name: str, target: str, body: bytes, content_type: str | None = JSON) -> Probe:
    return Probe(name, "POST", target, body, content_type)


def form(name: str, target: str, **parts: tuple[str | None, bytes]) -> Probe:
    return Probe(name, "POST", target, form=parts)


SERVER = (
    get("liveness", "/liveness"),
    get("health", "/health"),
    get("health_generate", "/health_generate"),
    get("health with HEAD", "/health", "HEAD"),
    get("the old models", "/models"),
    get("server_info", "/server_info"),
    get("model_info", "/model_info"),
    get("the model's path", "/v1/model_info"),
    get("stats", "/stats"),
    get("models", "/v1/models"),
    get("the model", "/v1/models/{model}"),
    get("an unknown model", "/v1/models/nobody%2Fnothing"),
    get("a model without a name", "/v1/models/"),
    get("metrics that are off", "/metrics"),
    get("no such path", "/nowhere"),
    get("the wrong method", "/v1/images/generations"),
    get("a preflight", "/v1/images/generations", "OPTIONS", **PREFLIGHT),
    get("another origin", "/v1/models", Origin="http://page.test"),
)

IMAGES = (
    post("an image", "/v1/images/generations", prompt="a cat", response_format="b64_json", **SMALL),
    post("an image by address", "/v1/images/generations", prompt="a cat", response_format="url", **SMALL),
    get("the image's file", "/v1/images/{image}/content"),
    get("a range of the file", "/v1/images/{image}/content", Range="bytes=0-9"),
    get("a variant that is not there", "/v1/images/{image}/content?variant=3"),
    get("a variant that is no number", "/v1/images/{image}/content?variant=x"),
    post("two images", "/v1/images/generations", prompt="a cat", response_format="url", n=2, **SMALL),
    get("the second image's file", "/v1/images/{image}/content?variant=1"),
    post("a PNG", "/v1/images/generations", prompt="a cat", output_format="png", **SMALL),
    get("the PNG's file", "/v1/images/{image}/content"),
    post("a WebP", "/v1/images/generations", prompt="a cat", output_format="webp", **SMALL),
    post("a transparent image", "/v1/images/generations", prompt="a cat", background="transparent", **SMALL),
    post("an unknown image format", "/v1/images/generations", prompt="a cat", output_format="bmp", **SMALL),
    post("a list of seeds", "/v1/images/generations", {"prompt": "a cat", **SMALL, "n": 2, "seed": [5, 6]}),
    post("too few seeds", "/v1/images/generations", {"prompt": "a cat", **SMALL, "n": 2, "seed": [5]}),
    post("no seeds", "/v1/images/generations", {"prompt": "a cat", **SMALL, "seed": []}),
    post("a negative seed", "/v1/images/generations", {"prompt": "a cat", **SMALL, "seed": -1}),
    post("a list with a negative seed", "/v1/images/generations", {"prompt": "a cat", **SMALL, "seed": [-1]}),
    post("another model's name", "/v1/images/generations", prompt="a cat", model="nobody/nothing", **SMALL),
    post("an unknown field", "/v1/images/generations", prompt="a cat", whatever=1, **SMALL),
    post("an image without a prompt", "/v1/images/generations", size="64x64"),
    post("a prompt that is no text", "/v1/images/generations", prompt=7),
    post("a bad size", "/v1/images/generations", prompt="a cat", size="64by64"),
    post("a size of nothing", "/v1/images/generations", prompt="a cat", size="0x64"),
    post("negative steps", "/v1/images/generations", prompt="a cat", size="64x64", num_inference_steps=-1),
    post("a size that the model cannot make", "/v1/images/generations", prompt="a", size="4096x64", seed=1),
    post("an unknown response format", "/v1/images/generations", prompt="a cat", response_format="tiff"),
    raw("an image in bad JSON", "/v1/images/generations", b"{"),
    raw("an image in no JSON", "/v1/images/generations", b'{"prompt": "a cat"}', "application/x-www-form-urlencoded"),
    raw("an image in nothing", "/v1/images/generations", b""),
    raw("an image in a list", "/v1/images/generations", b"[]"),
    get("an unknown image", "/v1/images/nobody/content"),
    form("an edit of nothing", "/v1/images/edits", prompt=(None, b"a cat")),
    form("an edit without a prompt", "/v1/images/edits", image=("a.png", b"\x89PNG")),
    form("an edit", "/v1/images/edits", prompt=(None, b"a cat"), image=("a.png", b"\x89PNG"), size=(None, b"64x64")),
    raw("an edit in JSON", "/v1/images/edits", b'{"prompt": "a cat"}'),
)

ROLLOUTS = (
    post("a rollout", "/rollout/generate", ROLLOUT),
    post("a rollout without debug tensors", "/rollout/generate", {**ROLLOUT, "rollout_debug_mode": False}),
    post(
        "a rollout with everything",
        "/rollout/generate",
        {
            **ROLLOUT,
            "num_outputs_per_prompt": 2,
            "rollout_return_denoising_env": True,
            "rollout_return_dit_trajectory": True,
        },
    ),
    post("a rollout of one SDE step", "/rollout/generate", {**ROLLOUT, "rollout_sde_step_indices": [0]}),
    post(
        "a rollout that returns one step",
        "/rollout/generate",
        {**ROLLOUT, "rollout_return_step_indices": [1], "rollout_return_dit_trajectory": True},
    ),
    post("a rollout by CPS", "/rollout/generate", {**ROLLOUT, "rollout_sde_type": "cps"}),
    post("a rollout by ODE", "/rollout/generate", {**ROLLOUT, "rollout_sde_type": "ode"}),
    post("a rollout that is none", "/rollout/generate", {**ROLLOUT, "rollout": False}),
    post("a rollout without a seed", "/rollout/generate", {k: v for k, v in ROLLOUT.items() if k != "seed"}),
    post("a rollout without a prompt", "/rollout/generate", seed=1),
    post("a rollout of seeds", "/rollout/generate", {**ROLLOUT, "seed": [1]}),
    post("a rollout of an unknown type", "/rollout/generate", {**ROLLOUT, "rollout_sde_type": "tea"}),
    post("a rollout with negative noise", "/rollout/generate", {**ROLLOUT, "rollout_noise_level": -1.0}),
    post("a rollout of no steps", "/rollout/generate", {**ROLLOUT, "num_inference_steps": 0}),
    post("a rollout with an unknown field", "/rollout/generate", {**ROLLOUT, "whatever": 1}),
    raw("a rollout in bad JSON", "/rollout/generate", b"{"),
    get("a rollout with GET", "/rollout/generate"),
)

OTHERS = (
    post("a Vertex call", "/vertex_generate", instances=[{"prompt": "a cat"}], parameters={"width": 64, "height": 64}),
    post("a Vertex call of nothing", "/vertex_generate", instances=[]),
    post("a Vertex call without instances", "/vertex_generate", {}),
    post("a video of an image model", "/v1/videos", prompt="a cat", size="64x64"),
    form("a video by form", "/v1/videos", prompt=(None, b"a cat"), size=(None, b"64x64")),
    raw("a video in bad JSON", "/v1/videos", b"{"),
    post("a video without a prompt", "/v1/videos", size="64x64"),
    get("the videos", "/v1/videos"),
    get("an unknown video", "/v1/videos/nobody"),
    get("an unknown video's file", "/v1/videos/nobody/content"),
    get("deleting an unknown video", "/v1/videos/nobody", "DELETE"),
    post("a mesh of an image model", "/v1/meshes", prompt="a cat"),
    get("the meshes", "/v1/meshes"),
    get("an unknown mesh", "/v1/meshes/nobody"),
    get("an unknown mesh's file", "/v1/meshes/nobody/content"),
    get("deleting an unknown mesh", "/v1/meshes/nobody", "DELETE"),
    get("the LoRAs", "/v1/list_loras"),
    post("a LoRA without a name", "/v1/set_lora", {}),
    post("a LoRA that is not there", "/v1/set_lora", lora_nickname="a", lora_path="/nowhere"),
    post("a LoRA by its name alone", "/v1/set_lora", lora_nickname="a"),
    post("a LoRA for a target unknown", "/v1/set_lora", {"lora_nickname": "a", "lora_path": "/", "target": "vae"}),
    post("merging no LoRA", "/v1/merge_lora_weights", {}),
    post("unmerging no LoRA", "/v1/unmerge_lora_weights", {}),
)

WEIGHTS = (
    post("a refit", "/update_weights_from_disk", model_path="{path}"),
    post("a refit of one module", "/update_weights_from_disk", model_path="{path}", target_modules=["transformer"]),
    post("a refit of a module unknown", "/update_weights_from_disk", model_path="{path}", target_modules=["nothing"]),
    post("a refit without a path", "/update_weights_from_disk", {}),
    post("a refit from nowhere", "/update_weights_from_disk", model_path="/nowhere"),
    post("a refit from deeper in nowhere", "/update_weights_from_disk", model_path="/nowhere/at/all"),
    raw("a refit in bad JSON", "/update_weights_from_disk", b"{"),
    post("a refit of no tensors", "/update_weights_from_tensor", {}),
    post("a refit of garbage", "/update_weights_from_tensor", serialized_named_tensors=["AAAA"]),
    raw("a refit of tensors in bad JSON", "/update_weights_from_tensor", b"{"),
    post("a check without a module", "/update_weights_from_tensor_checker", {}),
    post("a check without tensors", "/update_weights_from_tensor_checker", target_module="transformer"),
    post("all checksums", "/get_weights_checksum", {}),
    post("one checksum", "/get_weights_checksum", module_names=["transformer"]),
    post("a checksum of a module unknown", "/get_weights_checksum", module_names=["nothing"]),
    post("checksums of no module", "/get_weights_checksum", module_names=[]),
    raw("checksums in nothing", "/get_weights_checksum", b""),
)

SLEEP = (
    post("waking when awake", "/resume_memory_occupation", {}),
    post("sleep", "/release_memory_occupation", {}),
    post("sleep when asleep", "/release_memory_occupation", {}),
    get("health asleep", "/health"),
    get("stats asleep", "/stats"),
    get("models asleep", "/v1/models"),
    post("an image asleep", "/v1/images/generations", prompt="a cat", **SMALL),
    post("a rollout asleep", "/rollout/generate", ROLLOUT),
    post("a Vertex call asleep", "/vertex_generate", instances=[{"prompt": "a"}], parameters={"width": 64}),
    post("a refit asleep", "/update_weights_from_disk", model_path="{path}"),
    post("a refit of garbage asleep", "/update_weights_from_tensor", serialized_named_tensors=["AAAA"]),
    post("checksums asleep", "/get_weights_checksum", {}),
    post("a LoRA asleep", "/v1/set_lora", lora_nickname="a", lora_path="/nowhere"),
    raw("waking without a body", "/resume_memory_occupation", b"", None),
    post("an image when awake again", "/v1/images/generations", prompt="a cat", **SMALL),
    raw("sleep without a body", "/release_memory_occupation", b"", None),
    raw("waking again", "/resume_memory_occupation", b"", None),
)

PROBES = (*SERVER, *IMAGES, *ROLLOUTS, *OTHERS, *WEIGHTS, *SLEEP)


class Asker:
    """Asks one worker the probes in their order, filling in what only this worker knows."""

    def __init__(self, url: str, *, model: str, checkpoint: str) -> None:
        self._url = url
        self._known = {"model": model, "path": checkpoint, "image": "none"}

    def ask(self, probe: Probe) -> httpx2.Response:
        """Send it on a connection of its own: a worker cuts those on which it failed."""
        headers = dict(probe.headers)
        if probe.content_type is not None:
            headers["Content-Type"] = probe.content_type
        reply = httpx2.request(
            probe.method,
            self._url + self._filled(probe.target, lambda value: value),
            content=None if probe.body is None else self._filled(probe.body.decode(), _inside_json).encode(),
            files=None if probe.form is None else dict(probe.form),
            headers=headers,
            timeout=60.0,
        )
        if probe.target == "/v1/images/generations" and reply.status_code == 200 and probe.method == "POST":
            self._known["image"] = reply.json()["id"]
        return reply

    def _filled(self, text: str, written: Callable[[str], str]) -> str:
        for name, value in self._known.items():
            text = text.replace("{" + name + "}", written(value))
        return text


def _inside_json(value: str) -> str:
    return json.dumps(value)[1:-1]
