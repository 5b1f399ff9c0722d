"""The dashboard in a real browser, in front of a real router and simulated workers."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.browser import CHROMIUM, Browser
from support.deadlines import eventually
from support.launching import launcher_file, marked
from support.raw_worker import answering, reply, serving
from support.router import RouterProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: chromium)"),
]

PICTURES = os.environ.get("DASHBOARD_PICTURES")
"""A folder for what the browser has seen, for whoever works on the page."""


@pytest.fixture(scope="module")
def workers() -> Iterator[list[SimProcess]]:
    with SimProcess(overhead_seconds=0.1) as one, SimProcess(overhead_seconds=0.2) as two:
        yield [one, two]


@pytest.fixture
def router(workers: list[SimProcess]) -> Iterator[RouterProcess]:
    with RouterProcess([worker.url for worker in workers], "--thumbnails", "8") as router:
        router.wait_until_healthy(2)
        yield router


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, router: RouterProcess) -> Browser:
    """The page of the router, live."""
    # The page of the test before looks for a router that is gone.
    started.open("about:blank")
    started.complaints.clear()
    started.addresses.clear()
    started.size(1280, 900)
    started.scheme("light")
    started.open(f"http://127.0.0.1:{router.port}/dashboard")
    until(started, "#link", "live")
    return started


def until(browser: Browser, selector: str, words: str) -> str:
    return eventually(lambda: browser.text(selector), lambda text: words in text, within_s=30.0)


def picture(browser: Browser, name: str) -> None:
    if PICTURES:
        Path(PICTURES, f"{name}.png").write_bytes(browser.picture())


def confirm(browser: Browser, text: str = "") -> None:
    """Say yes to the dialog that is open."""
    until_asked(browser, asked=True)
    if text:
        browser.run(f"document.getElementById('ask-input').value = {json.dumps(text)}")
    browser.click("#ask-yes")


def until_asked(browser: Browser, *, asked: bool) -> None:
    """Wait until the dialog is open, or closed: a key is taken in when the page comes to it."""
    eventually(lambda: browser.run("document.getElementById('ask').open"), lambda is_open: is_open is asked)


def pixels(browser: Browser) -> list[int]:
    """Count the pixels of the timeline that are painted, and how many colours they have."""
    found: list[int] = browser.run(
        """(() => { const canvas = document.getElementById("canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const colours = new Set(); let painted = 0;
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) {
          painted++; colours.add((data[i] << 16) + (data[i + 1] << 8) + data[i + 2]); }
        return [painted, colours.size]; })()"""
    )
    return found


def test_a_rollout_is_seen_as_it_runs(browser: Browser, router: RouterProcess, tmp_path: Path) -> None:
    browser.run(
        "const span = document.getElementById('span'); span.value = '30'; span.dispatchEvent(new Event('change'))"
    )
    empty = pixels(browser)
    write_checkpoint(tmp_path / "c", seed=3)
    small: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}
    with Client(f"http://127.0.0.1:{router.port}") as client:
        client.rollout_many(["a secret"] * 12, seed=1, **small)
        client.refit(str(tmp_path / "c"), weight_version="step-1")
        rolling = threading.Thread(target=client.rollout_many, args=(["a"] * 40,), kwargs={"seed": 1, **small})
        rolling.start()
        try:
            until(browser, "#legend", "step-1")
            picture(browser, "light")
        finally:
            rolling.join()
    painted = pixels(browser)
    assert painted[0] > empty[0] + 1000
    assert painted[1] > empty[1]
    assert browser.text("#legend").split() == ["0", "step-1"]
    assert "step-1" in browser.text("#workers")
    assert "updating" in browser.text("#events")
    # What was made is seen, and not what was asked for.
    is_shown = "[...document.querySelectorAll('#images img')].some((image) => image.naturalWidth === 64)"
    eventually(lambda: browser.run(is_shown), lambda shown: shown is True, within_s=30.0)
    assert "a secret" not in browser.run("document.documentElement.outerHTML")
    browser.scheme("dark")
    picture(browser, "dark")
    browser.size(400, 800)
    picture(browser, "narrow")
    # Whatever is wider scrolls in its own frame.
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    # Only this test reads the canvas back.
    assert [complaint for complaint in browser.complaints if "getImageData" not in complaint] == []
    base = f"http://127.0.0.1:{router.port}/"
    assert all(address.startswith((base, f"blob:{base}")) for address in browser.addresses)


def test_workers_and_the_fleet_are_steered_after_a_confirmation(
    browser: Browser, router: RouterProcess, workers: list[SimProcess]
) -> None:
    url = workers[0].url
    button = f"tr[data-url='{url}'] [data-action="
    browser.click(button + "'quarantine']")
    assert url in browser.text("#ask")
    browser.press("Escape")
    until_asked(browser, asked=False)
    assert router.statuses()[url] == "active"

    browser.click(button + "'quarantine']")
    confirm(browser)
    until(browser, "#workers", "an operator has quarantined it")
    browser.click(button + "'recover']")
    confirm(browser)
    eventually(lambda: router.statuses()[url], lambda status: status == "active")

    browser.click("[data-fleet='sleep']")
    confirm(browser)
    until(browser, "#workers", "sleeping")
    eventually(lambda: set(router.statuses().values()), lambda statuses: statuses == {"sleeping"})
    browser.click("[data-fleet='wake']")
    confirm(browser)
    eventually(lambda: set(router.statuses().values()), lambda statuses: statuses == {"active"})

    browser.click("[data-fleet='pause']")
    confirm(browser)
    until(browser, "#pause", "Continue")
    browser.click("#pause")
    confirm(browser)
    until(browser, "#pause", "Pause")
    assert browser.complaints == []


def test_a_refit_that_is_refused_says_why(browser: Browser) -> None:
    browser.click("[data-fleet='refit']")
    confirm(browser, "/no/such/checkpoint")
    assert "http://127.0.0.1" in until(browser, "#notes", "/no/such/checkpoint")


def test_the_page_can_be_used_by_keyboard(browser: Browser) -> None:
    seen: list[str] = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.innerText || document.activeElement.id"))
    assert seen[:5] == ["Sleep", "Wake", "Refit…", "Pause", "Key…"]
    assert {"hold", "canvas", "find"} <= {*seen, browser.run("document.getElementById('hold') && 'hold'")}
    browser.run("document.querySelector('[data-fleet=sleep]').focus()")
    browser.press("Enter")
    until_asked(browser, asked=True)
    assert browser.run("document.activeElement.id") == "ask-yes"
    browser.press("Escape")
    until_asked(browser, asked=False)


def test_workers_are_found_by_what_is_typed(browser: Browser, workers: list[SimProcess]) -> None:
    port = workers[1].url.rpartition(":")[2]
    browser.run(
        f"const find = document.getElementById('find'); find.value = '{port}'; find.dispatchEvent(new Event('input'))"
    )
    assert browser.text("#workers").split()[0] == f"127.0.0.1:{port}"
    assert browser.run("[...document.querySelectorAll('#workers tr')].filter((row) => !row.hidden).length") == 1


def test_a_router_with_keys_is_seen_and_steered_with_them(started: Browser, workers: list[SimProcess]) -> None:
    url = workers[0].url
    flags = ("--api-key", "looks", "--admin-key", "changes", "--thumbnails", "4")
    with RouterProcess([url], *flags) as router:
        started.open(f"http://127.0.0.1:{router.port}/dashboard")
        until(started, "#ask", "this needs a key")
        confirm(started, "looks")
        until(started, "#link", "live")
        until(started, "#workers", "active")
        with Client(f"http://127.0.0.1:{router.port}", api_key="looks") as client:
            client.rollout("a secret", seed=1, width=64, height=64, num_inference_steps=2)
        is_shown = "document.querySelector('#images img')?.naturalWidth === 64"
        eventually(lambda: started.run(is_shown), lambda shown: shown is True, within_s=30.0)

        started.click("[data-action='drain']")
        confirm(started)
        until(started, "#ask", "needs the admin key")
        confirm(started, "changes")
        until(started, "#workers", "draining")
        # Whoever has no key has none of it, by its address either.
        name = started.run("document.querySelector('#images button').dataset.name")
        assert httpx2.get(f"http://127.0.0.1:{router.port}/dashboard/thumbnails/{name}").status_code == 401


def test_a_worker_that_the_router_has_started_is_restarted(started: Browser, tmp_path: Path) -> None:
    with marked() as mark:
        file = launcher_file(tmp_path, worker_env=mark.env)
        with RouterProcess((), "--launcher-config", str(file)) as router:
            started.open(f"http://127.0.0.1:{router.port}/dashboard")
            until(started, "#workers", "active")
            started.click("[data-action='restart']")
            confirm(started)
            until(started, "#notes", "done: restart")
            eventually(lambda: router.get("/workers")["workers"][0]["launcher"]["restarts"], lambda count: count == 1)


async def test_what_comes_from_workers_is_text(started: Browser) -> None:
    evil = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'
    models = json.dumps({"data": [{"id": evil, "task_type": "T2I"}]}).encode()
    async with serving(answering(reply(200, models))) as worker:
        with RouterProcess([str(worker)]) as router:
            base = f"http://127.0.0.1:{router.port}"

            def look() -> tuple[str, Any]:
                router.wait_until_healthy(1)
                body = {"weight_version": evil, "workers": [str(worker)]}
                assert httpx2.post(f"{base}/weights/reported", json=body).status_code == 200
                started.complaints.clear()
                started.open(f"{base}/dashboard")
                return until(started, "#workers", "<img"), started.run("window.evil")

            shown, ran = await asyncio.to_thread(look)
    assert evil in shown
    assert ran is None
    assert [complaint for complaint in started.complaints if "Content Security" in complaint] == []


def test_a_router_that_is_restarted_is_found_again(started: Browser, workers: list[SimProcess]) -> None:
    with RouterProcess([workers[0].url]) as router:
        router.wait_until_healthy(1)
        started.open(f"http://127.0.0.1:{router.port}/dashboard")
        until(started, "#link", "live")
        port = router.port
    until(started, "#link", "no answer")
    with RouterProcess([workers[1].url], "--port", str(port)) as router:
        router.wait_until_healthy(1)
        until(started, "#link", "live")
        eventually(
            lambda: started.text("#workers"), lambda text: workers[1].url.removeprefix("http://") in text, within_s=30.0
        )
        assert workers[0].url.removeprefix("http://") not in started.text("#workers")
