"""The dashboard in a real browser, in front of a router that has keys."""

import json
from collections.abc import Iterator

import pytest

from sglang_diffusion_routing.sim.process import SimProcess
from support.browser import CHROMIUM, Browser
from support.deadlines import eventually
from support.router import RouterProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: chromium)"),
]


@pytest.fixture(scope="module")
def worker() -> Iterator[SimProcess]:
    with SimProcess() as worker:
        yield worker


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def until(browser: Browser, selector: str, words: str) -> str:
    return eventually(lambda: browser.text(selector), lambda text: words in text, within_s=30.0)


def until_asked(browser: Browser, *, asked: bool) -> None:
    eventually(lambda: browser.run("document.getElementById('ask').open"), lambda is_open: is_open is asked)


def give(browser: Browser, key: str, *, when: str) -> None:
    """Answer the page's question for a key."""
    eventually(lambda: browser.text("#ask"), lambda text: when in text)
    until_asked(browser, asked=True)
    assert browser.run("document.getElementById('ask-input').type") == "password"
    browser.run(f"document.getElementById('ask-input').value = {json.dumps(key)}")
    browser.click("#ask-yes")


def test_the_page_asks_for_each_key_when_it_is_needed(browser: Browser, worker: SimProcess) -> None:
    flags = ("--api-key", "s3cret-data", "--admin-key", "s3cret-admin")
    with RouterProcess([worker.url], *flags) as router:
        router.wait_until_healthy(1)
        browser.size(1280, 900)
        browser.open(f"http://127.0.0.1:{router.port}/dashboard")
        # The page itself is open; what it shows is not.
        give(browser, "a guess", when="this needs a key")
        give(browser, "s3cret-data", when="none of the router's")
        until(browser, "#link", "live")
        until(browser, "#workers", "active")

        browser.click("[data-fleet='sleep']")
        until_asked(browser, asked=True)
        browser.click("#ask-yes")
        give(browser, "s3cret-admin", when="needs the admin key")
        until(browser, "#workers", "sleeping")
        browser.click("[data-fleet='wake']")
        until_asked(browser, asked=True)
        browser.click("#ask-yes")
        until(browser, "#workers", "active")

        # Nothing of a key is left anywhere but in the page's memory.
        kept = browser.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert "s3cret" not in kept
        assert not any("s3cret" in address for address in browser.addresses)
        assert "s3cret" not in router.stderr()


def test_the_page_works_on_the_control_listener_and_is_not_on_the_other(browser: Browser, worker: SimProcess) -> None:
    with RouterProcess([worker.url], "--admin-port", "0") as router:
        router.wait_until_healthy(1)
        (line,) = eventually(lambda: [line for line in router.said if "control on" in line], bool)
        browser.open(line.rpartition(" ")[2] + "/dashboard")
        until(browser, "#link", "live")
        browser.click("[data-fleet='pause']")
        until_asked(browser, asked=True)
        browser.click("#ask-yes")
        until(browser, "#pause", "Continue")
        browser.open(f"http://127.0.0.1:{router.port}/dashboard")
        assert "control_elsewhere" in eventually(lambda: browser.run("document.body.innerText"), bool)


def test_a_page_of_another_origin_changes_nothing(browser: Browser, worker: SimProcess) -> None:
    """What a page of one router does to another one, as a browser lets it: a form's request goes out, unasked."""
    with RouterProcess([worker.url]) as victim, RouterProcess([]) as other:
        victim.wait_until_healthy(1)
        browser.open(f"http://127.0.0.1:{other.port}/liveness")
        address = f"http://127.0.0.1:{victim.port}/release_memory_occupation"
        send = f"fetch({json.dumps(address)}, {{method: 'POST', mode: 'no-cors', body: '{{}}'}})"
        assert browser.run(f"{send}.then((reply) => reply.type)") == "opaque"
        eventually(victim.stderr, lambda log: "code=cross_origin" in log)
        assert victim.statuses() == {worker.url: "active"}
