"""Tests of how the page and its files are served."""

import re
from importlib import resources

import pytest

from sglang_diffusion_routing.dashboard.page import FILES
from support.running import running

pytestmark = pytest.mark.loopback


async def test_the_page_and_its_files_are_served_with_a_strict_policy() -> None:
    async with running() as router:
        page = await router.client.get("/dashboard")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for name, media_type in FILES.items():
            reply = await router.client.get(f"/dashboard/{name}")
            assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
            assert reply.headers["content-security-policy"] == page.headers["content-security-policy"]
        assert (await router.get("/dashboard/index.html"))[0] == 404
        # Its normal form is another path, which no worker is there for.
        assert (await router.get("/dashboard/..%2fpage.py"))[0] == 503
    policy = page.headers["content-security-policy"]
    # Images are fetched with the key, and shown from where they were put; nothing else may be of elsewhere.
    assert policy.startswith("default-src 'self'; img-src 'self' blob:; base-uri 'none'; ")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.core
def test_every_file_of_the_page_is_served_and_used() -> None:
    files = resources.files("sglang_diffusion_routing.dashboard").joinpath("static")
    assert {file.name for file in files.iterdir()} == {"index.html", *FILES}
    text = "".join(files.joinpath(name).read_text(encoding="utf-8") for name in ("index.html", *FILES))
    used = re.findall(r'(?:dashboard|from ")\.?/([a-z]+\.(?:js|css|svg))"', text)
    assert set(used) == set(FILES)


@pytest.mark.core
def test_the_page_asks_nobody_else_and_makes_no_markup() -> None:
    files = resources.files("sglang_diffusion_routing.dashboard").joinpath("static")
    for name in ("index.html", *FILES):
        text = files.joinpath(name).read_text(encoding="utf-8")
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    page = files.joinpath("index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", page)
