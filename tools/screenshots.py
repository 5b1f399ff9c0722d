"""Take pictures of the dashboard as it is now, for the pages that show it: light, dark, narrow, and with many workers.

Usage: python tools/screenshots.py FOLDER

It starts simulated workers, a router and a Chromium, all on loopback, and takes about a minute; nothing of it stays but
the pictures. Pictures are made anew for each site, and none is kept in the repository.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.browser import CHROMIUM, Browser
from support.deadlines import eventually
from support.router import RouterProcess
from support.stage import Stage, crowd

SPEEDS = (1.0, 1.1, 0.9, 1.0, 0.3, 1.0)
"""Of the workers; the fifth is the straggler."""
ROLLOUT: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 8}
PROMPTS = 100
CROWD = 256


def main() -> int:
    """Take all of them; exit status 2 where that cannot be."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write((__doc__ or "").partition("\n\n")[2])
        return 2
    if CHROMIUM is None:
        sys.stderr.write("screenshots: there is no Chromium (Debian: chromium)\n")
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        _rollout(browser, folder)
        _many(browser, folder)
    return 0


def _rollout(browser: Browser, folder: Path) -> None:
    """A rollout, a refit, sleep, and the next rollout under way."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sims = [stack.enter_context(SimProcess(speed=speed, overhead_seconds=0.5, jitter=0.2)) for speed in SPEEDS]
        router = stack.enter_context(RouterProcess([sim.url for sim in sims], "--thumbnails", "24"))
        router.wait_until_healthy(len(sims))
        _open(browser, router.port, 1280, 900)
        browser.run(
            "const span = document.getElementById('span'); span.value = '30'; span.dispatchEvent(new Event('change'))"
        )
        write_checkpoint(place / "step-1", seed=1)
        with Client(f"http://127.0.0.1:{router.port}") as client:
            client.rollout_many([f"prompt {number}" for number in range(PROMPTS)], seed=1, **ROLLOUT)
            client.sleep()
            client.wake()
            client.refit(str(place / "step-1"), weight_version="step-1")
            rolling = threading.Thread(
                target=client.rollout_many,
                args=([f"prompt {number}" for number in range(PROMPTS)],),
                kwargs={"seed": 2, **ROLLOUT},
            )
            rolling.start()
            try:
                _until(browser, "#legend", "step-1")
                eventually(lambda: browser.text("#f-running small"), lambda text: "late" in text, within_s=20.0)
                _save(browser, folder / "dashboard-light.png")
                browser.scheme("dark")
                _save(browser, folder / "dashboard-dark.png")
                browser.scheme("light")
                browser.size(360, 800)
                _save(browser, folder / "dashboard-narrow.png")
            finally:
                rolling.join()


def _many(browser: Browser, folder: Path) -> None:
    with Stage(crowd(CROWD)) as stage:
        _open(browser, stage.port, 1280, 1000)
        eventually(lambda: browser.text("#f-workers"), lambda text: "active" in text, within_s=30.0)
        _save(browser, folder / "dashboard-many.png")


def _open(browser: Browser, port: int, width: int, height: int) -> None:
    browser.scheme("light")
    browser.size(width, height)
    browser.open(f"http://127.0.0.1:{port}/dashboard")
    _until(browser, "#link", "live")


def _until(browser: Browser, selector: str, words: str) -> None:
    eventually(lambda: browser.text(selector), lambda text: words in text, within_s=30.0)


def _save(browser: Browser, path: Path) -> None:
    path.write_bytes(browser.picture())


if __name__ == "__main__":
    sys.exit(main())
