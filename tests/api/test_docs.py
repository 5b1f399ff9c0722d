import json
import re

import pytest

from support.running import RunningRouter


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_loads_nothing_from_elsewhere(shared_empty: RunningRouter) -> None:
    response = await shared_empty.client.get("/docs")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', response.text) + re.findall(r"url: '([^']+)'", response.text)
    assert sorted(loaded) == ["docs/favicon.png", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"]
    assert "//" not in "".join(loaded)
    for address in loaded:
        assert (await shared_empty.client.get(f"/{address}")).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_assets_have_their_types(shared_empty: RunningRouter) -> None:
    response = await shared_empty.client.get("/docs/swagger-ui-bundle.js")
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert len(response.content) > 100_000


@pytest.mark.asyncio(loop_scope="module")
async def test_only_the_pages_own_files_are_served(shared_empty: RunningRouter) -> None:
    for name in ("redoc.standalone.js", "__init__.py"):
        status, error = await shared_empty.get(f"/docs/{name}")
        assert (status, error["code"]) == (404, "route_not_found")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_document_has_every_route_and_its_errors(shared_empty: RunningRouter) -> None:
    _, document = await shared_empty.get("/openapi.json")
    paths = document["paths"]
    assert {
        "/workers", "/workers/{worker_id}", "/health", "/metrics", "/v1/models", "/v1/videos", "/abort_request",
        "/update_weights_from_disk", "/release_memory_occupation", "/get_weights_checksum", "/add_worker",
    } <= set(paths)  # fmt: skip
    register = paths["/workers"]["post"]
    assert register["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {
        "url",
        "worker_url",
        "urls",
        "workers",
        "labels",
        "max_concurrency",
        "worker_type",
    }
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert refs == set(document["components"]["schemas"])
    assert "`invalid_worker_url`" in register["responses"]["400"]["description"]
    assert not any("422" in operation["responses"] for path in paths.values() for operation in path.values())
