"""The workers that a router has started, as its API shows and orders them; real processes."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.deadlines import eventually_equal
from support.launching import launcher_file
from support.running import RunningRouter, eventually, running

pytestmark = pytest.mark.loopback

IMAGE = {"prompt": "x", "size": "64x64", "num_inference_steps": 1}


async def slot(router: RunningRouter) -> dict[str, Any]:
    _, listed = await router.get("/launcher")
    (only,) = listed["slots"]
    return dict(only)


async def until(router: RunningRouter, phase: str) -> dict[str, Any]:
    return await eventually(lambda: slot(router), lambda shown: shown["phase"] == phase, within_s=30)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[RunningRouter]:
    """A router with one worker that it has started."""
    async with running(launcher_config=str(launcher_file(tmp_path))) as router:
        await until(router, "ready")
        yield router


async def test_a_router_that_starts_no_workers_has_no_slots_and_takes_no_orders(empty: RunningRouter) -> None:
    assert await empty.get("/launcher") == (200, {"slots": []})
    url = "http://127.0.0.1:1"
    await empty.post("/workers", {"url": url})
    assert (await empty.worker(url))["launcher"] is None
    for verb in ("restart", "stop", "start"):
        assert await empty.post(f"/workers/{quote(url, safe='')}/{verb}") == (
            409,
            {"error": f"{url} was not started by this router, which starts none", "code": "conflict", "worker_id": url},
        )
        status, body = await empty.post(f"/workers/http%3A%2F%2Felsewhere%3A1/{verb}")
        assert (status, body["code"], body["worker_id"]) == (404, "unknown_worker", "http://elsewhere:1")


async def test_a_started_worker_says_where_it_runs(router: RunningRouter) -> None:
    shown = await slot(router)
    assert shown["seconds"] >= 0
    assert {key: value for key, value in shown.items() if key not in {"seconds", "pid", "log", "worker_id"}} == {
        "slot": 0, "phase": "ready", "restarts": 0, "reason": "", "tail": [], "facts": {"gpus": None},
    }  # fmt: skip
    worker = await router.worker(shown["worker_id"])
    assert worker["launcher"] == {key: shown[key] for key in ("slot", "phase", "restarts", "pid", "log")}
    assert "sim worker ready on" in await asyncio.to_thread(Path(shown["log"]).read_text)
    os.kill(shown["pid"], 0)


@pytest.mark.parametrize(
    "spell", [lambda url: quote(url, safe=""), lambda url: quote(quote(url, safe=""), safe=""), str]
)
async def test_a_worker_is_replaced_stopped_and_started_by_its_url(router: RunningRouter, spell: Any) -> None:
    before = await slot(router)
    path = f"/workers/{spell(before['worker_id'])}"
    status, body = await router.post(f"{path}/restart")
    assert (status, body["status"], body["slot"]["slot"]) == (202, "restarting", 0)
    after = await eventually(
        lambda: slot(router), lambda shown: shown["restarts"] == 1 and shown["phase"] == "ready", within_s=30
    )
    assert after["pid"] != before["pid"]
    assert after["worker_id"] == before["worker_id"]
    await router.until_status(after["worker_id"], "active")
    assert (await router.post("/v1/images/generations", IMAGE))[0] == 200
    status, body = await router.post(f"{path}/stop?force=true")
    assert (status, body["status"]) == (202, "stopping")
    await until(router, "stopped")
    assert (await router.get("/workers"))[1]["workers"] == []
    await asyncio.to_thread(eventually_equal, lambda: Path(f"/proc/{after['pid']}").exists(), False)
    status, body = await router.post(f"{path}/start")
    assert (status, body["status"]) == (202, "starting")
    await until(router, "ready")
    assert (await router.post("/v1/images/generations", IMAGE))[0] == 200


async def test_a_worker_that_is_deleted_is_ended(router: RunningRouter) -> None:
    before = await slot(router)
    assert (await router.ask("DELETE", f"/workers/{quote(before['worker_id'], safe='')}"))[0] == 200
    stopped = await until(router, "stopped")
    assert stopped["pid"] is None


async def test_an_unknown_parameter_is_refused(router: RunningRouter) -> None:
    url = (await slot(router))["worker_id"]
    status, body = await router.post(f"/workers/{quote(url, safe='')}/stop?now=true")
    assert (status, body["code"]) == (400, "invalid_field")
