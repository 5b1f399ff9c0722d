"""Tests of what the router tells of its process."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sglang_diffusion_routing import __version__
from support.running import running

pytestmark = pytest.mark.loopback


async def test_the_process_and_its_limits_are_told() -> None:
    async with running(max_client_connections=100) as router:
        status, info = await router.get("/router_info")

    assert (status, info["version"], info["pid"], info["state"]) == (200, __version__, os.getpid(), None)
    assert 3 < info["open_files"] < info["open_files_limit"]
    assert (info["client_connections"], info["max_client_connections"], info["idle_reuse_s"]) == (1, 100, 4.0)
    started, now = (datetime.fromisoformat(info[name]) for name in ("started_at", "now"))
    assert started <= now <= datetime.now(UTC)
    assert abs((now - started).total_seconds() - info["uptime_s"]) < 1.0


async def test_the_state_file_is_told_with_the_room_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with running(state=str(path)) as router:
        _, info = await router.get("/router_info")

    state = info["state"]
    assert (state["path"], state["unsaved"], state["write_failures"]) == (str(path), 0, 0)
    assert state["size_bytes"] > 0
    assert state["free_bytes"] > 0
