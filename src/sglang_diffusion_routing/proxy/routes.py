"""The route table, as data: method and path decide what a request is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from sglang_diffusion_routing.core.cost import USUAL, Usual
from sglang_diffusion_routing.core.work import Needs
from sglang_diffusion_routing.proxy.paths import normal_path, query_value


class Kind(Enum):
    """What is to be done with a request."""

    WORK = "work"
    """Needs a lease; any capable worker will do."""
    JOB = "job"
    """Belongs to the worker that made the thing it names."""
    CONTROL = "control"
    """The control app answers."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes.

    name: bounded set, for metrics. rewrite: path the worker gets instead of the client's.
    creates: "videos" or "meshes" where a good reply names a new job, "images" where it names a file.
    safe: GET, HEAD and OPTIONS of the catch-all, which skip queue and cap.
    usual: what its requests are taken to ask for where they do not say; None where nothing is known of their work.
    job_kind, job_id: of a `JOB`; job_ends: a good reply to it ends the job (DELETE).
    """

    kind: Kind
    name: str
    needs: Needs = Needs.ANY
    rewrite: bytes | None = None
    creates: str | None = None
    creates_job: bool = False
    safe: bool = False
    usual: Usual | None = None
    job_kind: str = ""
    job_id: str = ""


_IMAGES = Route(Kind.WORK, "images_generations", Needs.IMAGE, creates="images", usual=USUAL["images_generations"])
_VIDEOS = Route(Kind.WORK, "videos", Needs.VIDEO, creates="videos", creates_job=True, usual=USUAL["videos"])

WORK: dict[tuple[bytes, bytes], Route] = {
    (b"POST", b"/v1/images/generations"): _IMAGES,
    (b"POST", b"/v1/images/edits"): replace(_IMAGES, name="images_edits", usual=USUAL["images_edits"]),
    (b"POST", b"/rollout/generate"): Route(Kind.WORK, "rollout", usual=USUAL["rollout"]),
    (b"POST", b"/v1/diffusion/generate"): Route(Kind.WORK, "diffusion", usual=USUAL["diffusion"]),
    (b"POST", b"/v1/videos"): _VIDEOS,
    (b"POST", b"/v1/meshes"): Route(Kind.WORK, "meshes", creates="meshes", creates_job=True, usual=USUAL["meshes"]),
    (b"POST", b"/generate"): replace(_IMAGES, rewrite=b"/v1/images/generations"),
    (b"POST", b"/generate_video"): replace(_VIDEOS, rewrite=b"/v1/videos"),
}
"""Routes that generate (API §1)."""

CONTROL = Route(Kind.CONTROL, "control")
CATCH_ALL = Route(Kind.WORK, "other")
CATCH_ALL_SAFE = Route(Kind.WORK, "other_read", safe=True)
TUNNEL = Route(Kind.WORK, "tunnel")

_CONTROL_PATHS = frozenset(
    b"/" + name
    for name in (
        b"workers",
        b"add_worker",
        b"remove_worker",
        b"list_workers",
        b"health_workers",
        b"health",
        b"liveness",
        b"readiness",
        b"metrics",
        b"router_info",
        b"docs",
        b"redoc",
        b"openapi.json",
        b"dashboard",
        b"events",
        b"pause_generation",
        b"continue_generation",
        b"abort_request",
        b"leases",
        b"launcher",
        b"weights",
        b"refits",
        b"update_weights_from_disk",
        b"update_weights_from_tensor",
        b"update_weights_from_tensor_checker",
        b"get_weights_checksum",
        b"release_memory_occupation",
        b"resume_memory_occupation",
        b"v1/set_lora",
        b"v1/merge_lora_weights",
        b"v1/unmerge_lora_weights",
    )
)
_CONTROL_TREES = (b"/workers/", b"/docs/", b"/dashboard/", b"/leases/", b"/weights/", b"/refits/")
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_STATE_CHANGING = re.compile(rb"weights|lora|memory_occupation", re.IGNORECASE)
_MERGED = {b"/v1/videos": "videos", b"/v1/meshes": "meshes"}
_JOB = re.compile(rb"/v1/(videos|meshes)/([^/]+)(?:/.*)?", re.DOTALL)
_IMAGE = re.compile(rb"/v1/(images)/([^/]+)/content", re.DOTALL)


def route(method: bytes, path: bytes, query: bytes | None) -> Route:
    """Decide by method and normalised path; an unknown path is work for any worker."""
    found = WORK.get((method, path))
    if found is not None:
        return found
    normal = normal_path(path)
    if normal is not path:
        found = WORK.get((method, normal))
        if found is not None:
            return found
    return _other(method, normal, query)


def changes_state(method: bytes, path: bytes) -> bool:
    """Tell whether a request looks like one that changes a worker's state, which one worker of many must never get."""
    return method not in _SAFE and _STATE_CHANGING.search(path) is not None


def is_control_path(path: bytes) -> bool:
    """Tell whether a path in its normal form is one of the control API's own."""
    return path in _CONTROL_PATHS or path.startswith(_CONTROL_TREES)


def is_list(path: bytes) -> bool:
    """Tell whether a path in its normal form lists the jobs of all workers."""
    return path in _MERGED


def is_models(path: bytes) -> bool:
    """Tell whether a path in its normal form is about the models of all workers."""
    return path == b"/v1/models" or path.startswith(b"/v1/models/")


def _other(method: bytes, path: bytes, query: bytes | None) -> Route:
    if is_control_path(path):
        return CONTROL
    safe = method in _SAFE
    if method != b"OPTIONS":
        if safe and is_list(path):
            job_id = query_value(query, "video_id", "id", "job_id")
            if job_id is None:
                return CONTROL
            return Route(Kind.JOB, "job", job_kind=_MERGED[path], job_id=job_id)
        owned = _JOB.fullmatch(path) or (_IMAGE.fullmatch(path) if safe else None)
        if owned is not None:
            kind, job_id = owned[1].decode(), owned[2].decode("utf-8", "replace")
            return Route(Kind.JOB, "job", job_kind=kind, job_id=job_id)
        if safe and is_models(path):
            return CONTROL
    if changes_state(method, path):
        return CONTROL
    if query is not None and b"selector=" in query and query_value(query, "selector") is not None:
        return CONTROL
    return CATCH_ALL_SAFE if safe else CATCH_ALL
