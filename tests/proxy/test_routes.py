from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.cost import USUAL
from sglang_diffusion_routing.core.work import Needs
from sglang_diffusion_routing.proxy.routes import CATCH_ALL, CATCH_ALL_SAFE, CONTROL, Kind, Route, route

pytestmark = pytest.mark.core

METHODS = [b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"]
UNSAFE = [method for method in METHODS if method not in {b"GET", b"HEAD", b"OPTIONS"}]

CONTROL_PATHS = [
    b"/workers",
    b"/workers/http%3A%2F%2F10.0.0.1%3A8000",
    b"/workers/http://10.0.0.1:8000",
    b"/add_worker",
    b"/remove_worker",
    b"/list_workers",
    b"/health_workers",
    b"/health",
    b"/liveness",
    b"/readiness",
    b"/metrics",
    b"/docs",
    b"/docs/oauth2-redirect",
    b"/redoc",
    b"/openapi.json",
    b"/dashboard",
    b"/dashboard/events",
    b"/pause_generation",
    b"/continue_generation",
    b"/abort_request",
    b"/leases",
    b"/leases/7",
    b"/weights",
    b"/weights/default",
    b"/refits",
    b"/refits/3",
    b"/update_weights_from_disk",
    b"/update_weights_from_tensor",
    b"/update_weights_from_tensor_checker",
    b"/get_weights_checksum",
    b"/release_memory_occupation",
    b"/resume_memory_occupation",
    b"/v1/set_lora",
    b"/v1/merge_lora_weights",
    b"/v1/unmerge_lora_weights",
]

STATE_CHANGING = [
    b"/update_weights_from_distributed",
    b"/init_weights_update_group",
    b"/v1/load_lora_adapter",
    b"/unload_lora",
    b"/offload_memory_occupation",
    b"/v2/Weights",
    b"/v1/LoRA",
]


@pytest.mark.parametrize("path", CONTROL_PATHS)
@pytest.mark.parametrize("method", METHODS)
def test_control_routes_go_to_the_control_app_by_any_method(method: bytes, path: bytes) -> None:
    assert route(method, path, None) == CONTROL


@pytest.mark.parametrize("path", STATE_CHANGING)
def test_state_changing_routes_never_go_to_one_worker(path: bytes) -> None:
    for method in UNSAFE:
        assert route(method, path, None) == CONTROL
    assert route(b"GET", path, None) == CATCH_ALL_SAFE


def spellings(path: bytes) -> list[bytes]:
    """Spell a path in every way that some server takes for the same."""
    first, rest = path[1:2], path[2:]
    return [
        b"/%%%02x%b" % (first[0], rest),
        b"/%%%02X%b" % (first[0], rest),
        b"".join(b"%%%02x" % byte if byte != 47 else b"/" for byte in path),
        b"/" + b"".join(b"%%%02X" % byte for byte in path[1:]),
        b"/" + path,
        b"//" + path,
        path.replace(b"/", b"//"),
        path + b"/",
        path + b"//",
        path + b"%2f",
        b"/." + path,
        path + b"/.",
        b"/x/.." + path,
        b"/../.." + path,
        b"/%2e%2e" + path,
        b"/x/%2e%2e%2f" + path[1:],
        b"/v1/images/generations/../../.." + path,
        b"/%2f" + path[1:],
        path.replace(b"/", b"\\"),
        b"/" + path[1:].replace(b"/", b"%5c"),
        b"/\\" + path[1:],
        path + b";x",
        path + b";jsessionid=1;y",
        path + b"%3bx",
        b"/;x" + path,
        b"/x/..;y" + path,
    ]


@pytest.mark.parametrize("path", [*CONTROL_PATHS, *STATE_CHANGING])
def test_no_spelling_gets_around_the_control_app(path: bytes) -> None:
    for spelt in spellings(path):
        for method in UNSAFE:
            assert (spelt, route(method, spelt, None)) == (spelt, CONTROL)


@given(st.sampled_from([*CONTROL_PATHS, *STATE_CHANGING]), st.sampled_from(UNSAFE), st.data())
def test_whatever_a_worker_would_decode_to_a_control_route_is_one(
    path: bytes, method: bytes, data: st.DataObject
) -> None:
    """uvicorn decodes the path once, before its routes are looked up."""
    spelt = b"/" + b"".join(
        data.draw(st.sampled_from([bytes([byte]), b"%%%02x" % byte, b"%%%02X" % byte]))
        for byte in unquote_to_bytes(path)[1:]
    )
    assert unquote_to_bytes(spelt) == unquote_to_bytes(path)
    assert route(method, spelt, data.draw(st.sampled_from([None, b"", b"a=b"]))) == CONTROL


@pytest.mark.parametrize(
    "path",
    [b"/Workers", b"/HEALTH", b"/workersx", b"/xworkers", b"/health/x", b"/v1/workers", b"/metrics.json", b"/docsx"],
)
def test_a_path_that_only_looks_like_a_control_route_is_a_worker_s(path: bytes) -> None:
    assert route(b"GET", path, None) == CATCH_ALL_SAFE
    assert route(b"POST", path, None) == CATCH_ALL


IMAGES = Route(Kind.WORK, "images_generations", Needs.IMAGE, creates="images", usual=USUAL["images_generations"])
VIDEOS = Route(Kind.WORK, "videos", Needs.VIDEO, creates="videos", creates_job=True, usual=USUAL["videos"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/images/generations", IMAGES),
        (b"/v1/images/edits", replace(IMAGES, name="images_edits", usual=USUAL["images_edits"])),
        (b"/rollout/generate", Route(Kind.WORK, "rollout", usual=USUAL["rollout"])),
        (b"/v1/diffusion/generate", Route(Kind.WORK, "diffusion", usual=USUAL["diffusion"])),
        (b"/v1/videos", VIDEOS),
        (b"/v1/meshes", Route(Kind.WORK, "meshes", creates="meshes", creates_job=True, usual=USUAL["meshes"])),
        (b"/generate", replace(IMAGES, rewrite=b"/v1/images/generations")),
        (b"/generate_video", replace(VIDEOS, rewrite=b"/v1/videos")),
    ],
)
def test_posts_that_generate_are_work(path: bytes, expected: Route) -> None:
    for spelt in (path, path + b"/", b"/" + path, b"/%2e" + path):
        assert route(b"POST", spelt, None) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path", [b"/", b"/server_info", b"/stats", b"/v1/list", b"/v1/chat", b"/generate/x", b"/a%20b"]
)
def test_any_other_request_is_work_for_any_worker(method: bytes, path: bytes) -> None:
    assert route(method, path, b"x=1") == (CATCH_ALL if method in UNSAFE else CATCH_ALL_SAFE)


@pytest.mark.parametrize("path", [b"/generate", b"/rollout/generate", b"/v1/images/generations", b"/v1/images/edits"])
def test_a_generating_route_by_another_method_is_the_worker_s_to_refuse(path: bytes) -> None:
    assert route(b"GET", path, None) == CATCH_ALL_SAFE
    assert route(b"PUT", path, None) == CATCH_ALL


@pytest.mark.parametrize(
    ("method", "path", "query", "kind", "job_id"),
    [
        (b"GET", b"/v1/videos/v1", None, "videos", "v1"),
        (b"HEAD", b"/v1/videos/v1", None, "videos", "v1"),
        (b"DELETE", b"/v1/videos/v1", None, "videos", "v1"),
        (b"GET", b"/v1/videos/v1/content", None, "videos", "v1"),
        (b"GET", b"/v1/videos/v1/", None, "videos", "v1"),
        (b"POST", b"/v1/videos/v1/remix", None, "videos", "v1"),
        (b"GET", b"/v1/meshes/m-1/content", b"variant=x", "meshes", "m-1"),
        (b"GET", b"/v1/images/i_1/content", None, "images", "i_1"),
        (b"GET", b"/v1/videos/a%20b", None, "videos", "a b"),
        (b"GET", b"/v1/videos/%E2%82%AC", None, "videos", "€"),
        (b"GET", b"//v1/./videos/v1", None, "videos", "v1"),
        (b"GET", b"/v1/videos", b"video_id=v1", "videos", "v1"),
        (b"GET", b"/v1/videos", b"id=v1", "videos", "v1"),
        (b"GET", b"/v1/videos", b"job_id=v1&limit=1", "videos", "v1"),
        (b"GET", b"/v1/videos/", b"job_id=v1&id=v2&video_id=v3", "videos", "v3"),
        (b"GET", b"/v1/meshes", b"id=m1", "meshes", "m1"),
        (b"DELETE", b"/v1/videos/exploration-7", None, "videos", "exploration-7"),
        (b"GET", b"/v1/videos/weights", None, "videos", "weights"),
    ],
)
def test_what_a_worker_has_made_is_asked_of_that_worker(
    method: bytes, path: bytes, query: bytes | None, kind: str, job_id: str
) -> None:
    assert route(method, path, query) == Route(Kind.JOB, "job", job_kind=kind, job_id=job_id)


@pytest.mark.parametrize("path", [b"/v1/images/variations", b"/v1/images/i1/content", b"/v1/images/upscale"])
def test_a_new_way_to_make_images_is_work(path: bytes) -> None:
    assert route(b"POST", path, None) == CATCH_ALL


@pytest.mark.parametrize(
    "path", [b"/v1/videos", b"/v1/meshes", b"/v1/videos/", b"/v1/models", b"/v1/models/x", b"/v1//models"]
)
@pytest.mark.parametrize("query", [None, b"", b"limit=2&after=x", b"video_id="])
def test_lists_are_merged_by_the_control_app(path: bytes, query: bytes | None) -> None:
    assert route(b"GET", path, query) == CONTROL
    assert route(b"HEAD", path, query) == CONTROL


def test_a_list_of_models_is_only_read() -> None:
    assert route(b"POST", b"/v1/models", None) == CATCH_ALL


@pytest.mark.parametrize("path", [b"/v1/videos", b"/v1/videos/v1", b"/v1/models", b"/v1/images/generations"])
def test_a_preflight_reaches_a_worker(path: bytes) -> None:
    assert route(b"OPTIONS", path, None) == CATCH_ALL_SAFE


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"selector=all", CONTROL),
        (b"x=1&selector=http://a:1,http://b:2", CONTROL),
        (b"selector=", CATCH_ALL_SAFE),
        (b"selector", CATCH_ALL_SAFE),
        (b"xselector=all", CATCH_ALL_SAFE),
    ],
)
def test_a_selector_makes_a_fan_out_of_any_other_route(query: bytes, expected: Route) -> None:
    assert route(b"GET", b"/server_info", query) == expected


def test_a_selector_does_not_change_what_generates() -> None:
    assert route(b"POST", b"/v1/images/generations", b"selector=all") == IMAGES


@given(st.sampled_from(METHODS), st.binary(max_size=60).map(b"/".__add__), st.none() | st.binary(max_size=40))
def test_every_request_has_a_route_of_a_bounded_name(method: bytes, path: bytes, query: bytes | None) -> None:
    names = {"images_generations", "images_edits", "rollout", "diffusion", "videos", "meshes", "control", "job"}
    assert route(method, path, query).name in names | {"other", "other_read"}
