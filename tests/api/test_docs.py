import re

from support.running import RunningRouter


async def test_the_page_loads_nothing_from_elsewhere(empty: RunningRouter) -> None:
    response = await empty.client.get("/docs")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', response.text) + re.findall(r"url: '([^']+)'", response.text)
    assert sorted(loaded) == ["docs/favicon.png", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"]
    assert "//" not in "".join(loaded)
    for address in loaded:
        assert (await empty.client.get(f"/{address}")).status_code == 200


async def test_assets_have_their_types(empty: RunningRouter) -> None:
    response = await empty.client.get("/docs/swagger-ui-bundle.js")
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert len(response.content) > 100_000


async def test_only_the_pages_own_files_are_served(empty: RunningRouter) -> None:
    for name in ("redoc.standalone.js", "__init__.py"):
        status, error = await empty.get(f"/docs/{name}")
        assert (status, error["code"]) == (404, "route_not_found")


async def test_the_document_has_every_route_and_its_errors(empty: RunningRouter) -> None:
    _, document = await empty.get("/openapi.json")
    paths = document["paths"]
    assert {
        "/workers", "/workers/{worker_id}", "/health", "/metrics", "/v1/models", "/v1/videos", "/abort_request",
        "/update_weights_from_disk", "/release_memory_occupation", "/get_weights_checksum", "/add_worker",
    } <= set(paths)  # fmt: skip
    register = paths["/workers"]["post"]
    assert register["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {
        "url",
        "worker_url",
    }
    assert "`invalid_worker_url`" in register["responses"]["400"]["description"]
    assert not any("422" in operation["responses"] for path in paths.values() for operation in path.values())
