"""What routes read themselves is in the document."""

import re

import pytest

from sglang_diffusion_routing.api.app import document
from sglang_diffusion_routing.api.described import OF_QUERIES
from sglang_diffusion_routing.control.parameters import OWN

pytestmark = pytest.mark.core


def named(place: str, method: str, path: str) -> list[str]:
    operation = document()["paths"][path][method]
    return [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == place]


def test_every_parameter_of_the_router_is_described() -> None:
    assert set(OF_QUERIES) == OWN


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/release_memory_occupation", ["selector", "timeout_s"]),
        ("/resume_memory_occupation", ["selector"]),
        ("/get_weights_checksum", ["selector", "timeout_s"]),
        (
            "/v1/set_lora",
            ["selector", "timeout_s", "weight_version", "mode", "max_unavailable", "admit"],
        ),
        (
            "/update_weights_from_tensor",
            ["selector", "timeout_s", "weight_version", "mode", "max_unavailable", "admit", "refit"],
        ),
    ],
)
def test_a_route_for_many_workers_names_its_parameters(path: str, names: list[str]) -> None:
    assert named("query", "post", path) == names


def test_every_part_of_a_path_is_a_parameter() -> None:
    for path, methods in document()["paths"].items():
        for method in methods:
            assert named("path", method, path) == re.findall(r"\{(\w+)\}", path), f"{method} {path}"


def test_a_body_that_is_passed_on_names_what_the_router_looks_at() -> None:
    body = document()["paths"]["/update_weights_from_disk"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert (body["required"], schema["required"], sorted(schema["properties"])) == (
        True,
        ["model_path"],
        ["model_path", "weight_version"],
    )
