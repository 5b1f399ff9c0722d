"""The page of the dashboard in a real browser, before a stage on which any fleet can be played."""

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from support.browser import CHROMIUM, Browser
from support.deadlines import eventually, eventually_equal
from support.stage import Frame, Stage, crowd, frame, worker

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: chromium)"),
]

ONE, TWO = "http://10.0.0.1:30000", "http://10.0.0.2:30000"
LAUNCHED = {"slot": 0, "phase": "ready", "restarts": 0, "pid": 1, "log": None}
EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def played(browser: Browser, stage: Stage, *, width: int = 1280, until: str = "live") -> Browser:
    """Open the page of a stage."""
    # The page of the test before looks for a stage that is gone.
    browser.open("about:blank")
    browser.complaints.clear()
    browser.size(width, 900)
    browser.scheme("light")
    browser.open(f"http://127.0.0.1:{stage.port}/dashboard")
    says(browser, "#link", until)
    return browser


def says(browser: Browser, selector: str, words: str, *, within_s: float = 30.0) -> str:
    return eventually(lambda: browser.text(selector), lambda text: words in text, within_s=within_s)


def holds(browser: Browser, program: str) -> None:
    """Wait until an expression is true in the page."""
    eventually(lambda: browser.run(program), lambda value: value is True, within_s=30.0)


def answer(browser: Browser, text: str | None = None, *, to: str = "") -> None:
    """Say yes to the dialog that is open, or will be."""
    holds(
        browser,
        f"document.getElementById('ask').open && document.getElementById('ask').innerText.includes({json.dumps(to)})",
    )
    if text is not None:
        browser.run(f"document.getElementById('ask-input').value = {json.dumps(text)}")
    browser.click("#ask-yes")


def painted(browser: Browser, canvas: str) -> int:
    """Count the colours of what is painted."""
    count: int = browser.run(
        f"""(() => {{ const canvas = document.querySelector({json.dumps(canvas)});
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const colours = new Set();
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200)
          colours.add((data[i] << 16) + (data[i + 1] << 8) + data[i + 2]);
        return colours.size; }})()"""
    )
    return count


def point(browser: Browser, part: float, row: int) -> None:
    """Move a pointer to a row of the timeline, at a part of its time."""
    browser.run(
        f"""(() => {{ const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent("mousemove", {{ clientX: box.left + 136 + {part} * (box.width - 136),
          clientY: box.top + 31 + {row} * 22 }})); }})()"""
    )


def jpeg(side: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(written, "JPEG")
    return written.getvalue()


def with_images() -> Frame:
    """Two workers, and an image of the first, whose bar goes from 60 to 20 s ago."""
    now = time.time()
    bar = [ONE, "rollout", now - 60, now - 20, 1.5, "step-1", "ok", 200, 7]
    image = ["name-1", now - 20, ONE, "rollout", "step-1", 7, 512, 768]
    return frame([worker(ONE), worker(TWO)], now=now, bars=[bar], thumbnails=[image])


def test_a_key_is_asked_for_where_the_router_wants_one(started: Browser) -> None:
    with Stage(with_images()) as stage:
        stage.key = "right"
        stage.images["name-1"] = jpeg(144)
        browser = played(started, stage, until="this needs a key")
        answer(browser, "wrong", to="this needs a key")
        answer(browser, "right", to="this needs a key")
        says(browser, "#link", "live")
        holds(browser, "document.querySelector('#images img').naturalWidth === 144")
        keys = [key for _, _, _, key in stage.asked]
        assert keys[:2] == ["", "wrong"]
        assert set(keys[2:]) == {"right"}
        # It is nowhere but in the page's memory.
        assert browser.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])") == '[{},{},""]'
        assert browser.run("document.body.innerHTML.includes('right\"')") is False


def test_the_admin_key_is_asked_for_where_a_change_wants_it(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        stage.key, stage.admin_key = "looks", "changes"
        browser = played(started, stage, until="this needs a key")
        answer(browser, "looks", to="this needs a key")
        says(browser, "#link", "live")
        browser.click("[data-action=drain]")
        answer(browser, to="Drain")
        answer(browser, "changes", to="this needs the admin key")
        says(browser, "#notes", f"done: drain {ONE}")
        path = "/workers/http%3A%2F%2F10.0.0.1%3A30000"
        assert [(method, where, key) for method, where, _, key in stage.asked if method != "GET"] == [
            ("PUT", path, "looks"),
            ("PUT", path, "changes"),
        ]


def test_who_gives_no_key_is_told_why_nothing_was_done(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        browser = played(started, stage)
        stage.admin_key = "changes"
        browser.click("[data-fleet=sleep]")
        answer(browser, to="Put the fleet to sleep?")
        holds(browser, "document.getElementById('ask').innerText.includes('this needs a key')")
        browser.press("Escape")
        says(browser, "#notes", "sleep: this needs a key")


def test_every_button_asks_first_and_sends_what_the_api_has(started: Browser) -> None:
    out = "http://10.0.0.3:30000"
    rows = [
        worker(ONE, launcher=LAUNCHED),
        worker(TWO, "draining"),
        worker(out, "quarantined"),
    ]
    with Stage(frame(rows)) as stage:
        browser = played(started, stage)
        offered = {
            url: browser.run(
                f"[...document.querySelectorAll(\"tr[data-url='{url}'] button\")].map((b) => b.dataset.action)"
            )
            for url in (ONE, TWO, out)
        }
        assert offered == {
            ONE: ["drain", "quarantine", "restart", "remove"],
            TWO: ["undrain", "quarantine", "remove"],
            out: ["drain", "recover", "remove"],
        }

        def of(url: str) -> str:
            return "/workers/" + url.replace(":", "%3A").replace("/", "%2F")

        wanted: list[tuple[str, str, Any]] = []
        for url, action, *sent in [
            (ONE, "drain", "PUT", of(ONE), {"state": "drained"}),
            (ONE, "quarantine", "PUT", of(ONE), {"is_dead": True}),
            (ONE, "restart", "POST", of(ONE) + "/restart", None),
            (TWO, "undrain", "PUT", of(TWO), {"state": "active"}),
            (out, "recover", "PUT", of(out), {"is_dead": False}),
            (out, "remove", "DELETE", of(out), None),
        ]:
            browser.click(f"tr[data-url='{url}'] [data-action={action}]")
            holds(browser, "document.getElementById('ask').open")
            assert stage.actions() == wanted
            answer(browser, to=url)
            wanted.append((sent[0], sent[1], sent[2]))
            eventually_equal(stage.actions, wanted)
        for button, text, path, body in [
            ("sleep", None, "/release_memory_occupation", None),
            ("wake", None, "/resume_memory_occupation", None),
            ("refit", "/checkpoints/step-2", "/update_weights_from_disk", {"model_path": "/checkpoints/step-2"}),
            ("pause", None, "/pause_generation", None),
        ]:
            browser.click(f"[data-fleet={button}]")
            answer(browser, text)
            wanted.append(("POST", path, body))
            eventually_equal(stage.actions, wanted)
        assert browser.complaints == []


def test_what_was_refused_is_told_with_its_reason(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        rows = [{"worker_url": ONE, "status_code": 500, "body": {"message": EVIL}}]
        stage.answers["POST", "/update_weights_from_disk"] = (200, {"success": False, "results": rows})
        stage.answers["POST", "/resume_memory_occupation"] = (409, {"error": "not now", "code": "conflict"})
        browser = played(started, stage)
        browser.click("[data-fleet=refit]")
        answer(browser, "/c")
        assert EVIL in says(browser, "#notes", ONE)
        browser.click("[data-fleet=wake]")
        answer(browser)
        says(browser, "#notes", "wake: not now")
        assert browser.run("window.evil") is None


def test_an_image_is_shown_beside_its_bar_and_larger(started: Browser) -> None:
    with Stage(with_images()) as stage:
        stage.images["name-1"] = jpeg(144)
        browser = played(started, stage)
        holds(browser, "document.querySelector('#images img').naturalWidth === 144")
        point(browser, 0.6, 0)
        assert "10.0.0.1:30000: rollout took 40 s, waited 1.50 s, weights step-1" in says(browser, "#hint", "took")
        holds(
            browser,
            "!document.getElementById('card').hidden && document.querySelector('#card img').naturalWidth === 144",
        )
        point(browser, 0.6, 1)
        holds(browser, "document.getElementById('card').hidden")

        stage.images["name-1"] = jpeg(640)
        browser.click("#images button")
        holds(browser, "document.querySelector('#picture img').naturalWidth === 640")
        assert "weights step-1" in browser.text("#picture")
        assert "512 \N{MULTIPLICATION SIGN} 768" in browser.text("#picture")
        browser.press("Escape")
        holds(browser, "!document.getElementById('picture').open")
        asked = [target for method, target, _, _ in stage.asked if "thumbnails" in target]
        assert asked == ["/dashboard/thumbnails/name-1?size=small", "/dashboard/thumbnails/name-1?size=large"]
        assert browser.complaints == []


def test_an_image_that_is_gone_leaves_no_gap(started: Browser) -> None:
    played_frame = with_images()
    played_frame["thumbnails"].append([*played_frame["thumbnails"][0][:5], 8, 64, 64])
    played_frame["thumbnails"][1][0] = "name-2"
    with Stage(played_frame) as stage:
        stage.images["name-2"] = jpeg(144)
        browser = played(started, stage)
        holds(browser, "document.querySelectorAll('#images li').length === 1")
        holds(browser, "document.querySelector('#images img').naturalWidth === 144")


def test_an_image_that_is_still_to_come_looks_like_none(started: Browser) -> None:
    with Stage(with_images()) as stage:
        stage.held.set()
        browser = played(started, stage)
        holds(browser, "document.querySelectorAll('#images li').length === 1")
        assert browser.run("getComputedStyle(document.querySelector('#images img')).visibility") == "hidden"
        stage.images["name-1"] = jpeg(144)
        stage.held.clear()
        holds(browser, "getComputedStyle(document.querySelector('#images img')).visibility === 'visible'")


def test_without_images_there_is_no_place_for_them(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        browser = played(started, stage)
        assert browser.run("getComputedStyle(document.getElementById('images')).display") == "none"


def test_a_piece_that_takes_long_is_marked_late(started: Browser) -> None:
    now = time.time()
    bars = [[ONE, "rollout", now - 40 + 2 * i, now - 38 + 2 * i, 0.0, "0", "ok", 200, i] for i in range(10)]
    running = [[ONE, "rollout", now - 1], [TWO, "rollout", now - 19]]
    with Stage(frame([worker(ONE), worker(TWO)], now=now, bars=bars, running=running)) as stage:
        browser = played(started, stage)
        says(browser, "#f-running", "1 late: 10.0.0.2:30000")
        point(browser, 0.95, 1)
        says(browser, "#hint", "such take 2.00 s")


def test_throughput_waits_and_the_queue_are_drawn(started: Browser) -> None:
    first = crowd(6)
    with Stage(first) as stage:
        browser = played(started, stage)
        says(browser, "[data-curve=done] output", "/ s")
        # The lines, the words, and two versions, with what is between them when edges are smoothed.
        eventually(lambda: painted(browser, "[data-curve=done] canvas"), lambda count: count > 3)
        eventually(lambda: painted(browser, "[data-curve=waits] canvas"), lambda count: count > 3)
        assert browser.text("[data-curve=queue] output") == "812"
        assert browser.text("#legend").split() == ["step-0", "step-1"]


def test_versions_that_follow_each_other_have_colours_of_their_own(started: Browser) -> None:
    now = time.time()
    bars = [[ONE, "rollout", now - 80 + 9 * i, now - 73 + 9 * i, 0.0, f"step-{i}", "ok", 200, i] for i in range(8)]
    with Stage(frame([worker(ONE, weight_version="step-7")], now=now, bars=bars)) as stage:
        browser = played(started, stage)
        says(browser, "#legend", "step-7")
        assert browser.text("#legend").split() == [f"step-{number}" for number in range(8)]
        colours = browser.run(
            "[...document.querySelectorAll('#legend i')].map((patch) => getComputedStyle(patch).backgroundColor)"
        )
        assert len(set(colours)) == 8


def test_what_is_kept_of_the_past_does_not_grow(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        browser = played(started, stage)
        kept = browser.run(
            """(async () => { const { History } = await import("./dashboard/history.js"); const history = new History();
            const row = { url: "a", display_id: "a", weight_version: "1" }; const most = []; let now = 0;
            for (let times = 0; times < 30; times++) {
              const bar = () => (now += 0.001, ["a", "r", now, now, 0, "1", "ok", 200, 0]);
              const bars = Array.from({ length: 5000 }, bar);
              const changes = [[now, `gone-${times}`, "active", "removed"]];
              history.take({ now, bars, changes, running: [], queue: { requests: 0 } }, [row]);
              most.push(history.count, history.bars.get("a").length);
            }
            history.take({ now: now + 8000, bars: [], changes: [], running: [], queue: { requests: 0 } }, [row]);
            const { count, bars, bands, samples } = history;
            return [Math.max(...most), count, bars.size, bands.size, samples.length]; })()"""
        )
        assert kept == [60_000, 0, 0, 0, 1]


def test_256_workers_are_shown(started: Browser) -> None:
    with Stage(crowd(256)) as stage:
        browser = played(started, stage)
        says(browser, "#f-workers", "253 active")
        assert browser.run("document.querySelectorAll('#workers tr').length") == 256
        assert browser.run("document.getElementById('canvas').clientHeight") == 20 + 256 * 5
        says(browser, "#f-running", "late")
        browser.click("[data-find=quarantined]")
        assert browser.text("#found") == "1 of 256"
        assert browser.text("#workers").split()[:2] == ["10.0.0.8:30000", "quarantined"]
        browser.click("[data-find=quarantined]")
        assert browser.text("#found") == ""
        assert [complaint for complaint in browser.complaints if "getImageData" not in complaint] == []


@pytest.mark.parametrize("width", [360, 800, 1280, 1920])
def test_nothing_is_wider_than_the_screen(started: Browser, width: int) -> None:
    rows = [
        worker(f"http://{'long-name.' * 12}example:{port}", reason="r" * 400, weight_version="v" * 200)
        for port in (1, 2)
    ]
    with Stage(
        frame(rows, targets={"g" * 90: "v" * 200}, changes=[[time.time(), rows[0]["url"], None, "active"]])
    ) as stage:
        browser = played(started, stage, width=width)
        says(browser, "#workers", "long-name")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_timeline_is_walked_by_keys(started: Browser) -> None:
    with Stage(with_images()) as stage:
        browser = played(started, stage)
        browser.run("document.getElementById('canvas').focus()")
        browser.press("ArrowDown")
        says(browser, "#hint", "10.0.0.1:30000: rollout took 40 s")
        browser.press("ArrowDown")
        says(browser, "#hint", "10.0.0.2:30000: nothing in this time")
        browser.press("ArrowUp")
        says(browser, "#hint", "10.0.0.1:30000")
        browser.press("ArrowLeft")
        assert browser.run("document.getElementById('hold').getAttribute('aria-pressed')") == "true"
        browser.press("Escape")
        assert browser.run("document.getElementById('hold').getAttribute('aria-pressed')") == "false"


def test_whatever_is_named_is_text(started: Browser) -> None:
    now = time.time()
    evil = worker(ONE, EVIL, display_id=EVIL, reason=EVIL, weight_version=EVIL, model=EVIL, active_requests=1)
    first = frame(
        [evil, worker(TWO)],
        now=now,
        targets={EVIL: EVIL, "b": None},
        bars=[[ONE, EVIL, now - 60, now - 20, 1.0, EVIL, EVIL, 500, 7]],
        running=[[ONE, EVIL, now - 19]],
        changes=[[now, EVIL, EVIL, EVIL]],
        thumbnails=[[EVIL, now, ONE, EVIL, EVIL, 7, 1, 1]],
    )
    with Stage(first) as stage:
        stage.images[EVIL.replace("<", "%3C")] = jpeg(8)
        browser = played(started, stage)
        for place in ("#workers", "#events", "#legend", "#f-weights", "#f-workers"):
            assert EVIL in says(browser, place, "<img")
        point(browser, 0.6, 0)
        says(browser, "#hint", EVIL)
        browser.click("[data-action=drain]")
        holds(browser, "document.getElementById('ask').open")
        browser.press("Escape")
        assert browser.run("window.evil") is None
        assert [text for text in browser.complaints if "Content Security" in text or "Trusted" in text] == []


def test_a_stream_that_stands_still_is_begun_anew(started: Browser) -> None:
    with Stage(frame([worker(ONE)])) as stage:
        browser = played(started, stage)
        stage.silent.set()
        says(browser, "#link", "no answer", within_s=60.0)
        stage.silent.clear()
        says(browser, "#link", "live", within_s=60.0)
        assert stage.streams == 2


def test_dark_and_light_have_their_own_colours(started: Browser) -> None:
    with Stage(crowd(3)) as stage:
        browser = played(started, stage)
        says(browser, "#workers", "step-1")
        swatch = "document.querySelector('#workers .swatch')"
        look = f"getComputedStyle({swatch}).backgroundColor + getComputedStyle(document.body).color"
        light = browser.run(look)
        browser.scheme("dark")
        assert browser.run(look) != light
