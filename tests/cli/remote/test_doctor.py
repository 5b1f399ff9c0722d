"""Tests of `doctor`."""

import asyncio
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.cli.remote import doctor
from sglang_diffusion_routing.cli.remote.doctor import Finding
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import read_request, reply, serving
from support.running import running
from support.shell import Shell

pytestmark = pytest.mark.loopback

STATE = {"path": "/s.db", "size_bytes": 2048, "free_bytes": 2**40, "unsaved": 0, "write_failures": 0}
INFO: dict[str, Any] = {
    "version": __version__,
    "now": "2026-01-01T00:00:00+00:00",
    "open_files": 20,
    "open_files_limit": 1_000_000,
    "client_connections": 1,
    "max_client_connections": 1000,
    "state": STATE,
}
NOW_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


async def test_a_healthy_router_has_no_faults(shell: Shell, workers: list[SimInThread]) -> None:
    shown = await shell.run("doctor", "--skip-keep-alive")

    assert shown.status == 0, shown.out
    assert "✓ workers: 2 of 2 take work" in shown.out
    # The router of this test keeps no state, and says so.
    assert shown.out.splitlines()[-1] == "0 faults, 1 warning"
    findings = (await shell.run("doctor", "--skip-keep-alive", "--json")).json["findings"]
    assert {finding["level"] for finding in findings} == {"ok", "warning"}


async def test_a_worker_that_is_out_is_a_fault_with_advice(shell: Shell, workers: list[SimInThread]) -> None:
    url = workers[0].url
    await shell.run("workers", "quarantine", url)
    shown = await shell.run("doctor", "--skip-keep-alive")

    assert shown.status == 1
    assert f"✗ {url}: quarantined: an operator has quarantined it" in shown.out
    assert f"workers recover {url}" in shown.out
    await shell.run("workers", "recover", url)


async def test_an_address_that_is_none_is_told_from_one_that_is_a_workers(
    shell: Shell, workers: list[SimInThread]
) -> None:
    assert "is that the address of a worker?" in (await shell.run("doctor", "--url", workers[0].url)).out
    shown = await shell.run("doctor", "--url", "http://127.0.0.1:1")
    assert (shown.status, "is it running, and is --url right?" in shown.out) == (1, True)

    async def something(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply(200, b"{}"))

    async with serving(something) as url:
        assert "is something else" in (await shell.run("doctor", "--url", str(url))).out


@pytest.mark.core
def test_another_version_is_a_warning() -> None:
    assert doctor.version(INFO).level == "ok"
    assert doctor.version({**INFO, "version": "0.0.1"}).level == "warning"


@pytest.mark.core
@pytest.mark.parametrize(("off_s", "level"), [(0, "ok"), (2, "ok"), (-3, "warning"), (3600, "warning")])
def test_clocks_that_differ_are_a_warning(off_s: int, level: str) -> None:
    now = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=off_s)).isoformat()

    assert doctor.clock({**INFO, "now": now}, NOW_S).level == level


@pytest.mark.core
@pytest.mark.parametrize(
    ("changed", "levels"),
    [
        ({}, ["ok"]),
        ({"open_files_limit": None}, ["ok"]),
        ({"open_files_limit": 1024}, ["warning"]),
        ({"open_files": 900_000}, ["warning"]),
        ({"client_connections": 900}, ["ok", "warning"]),
    ],
)
def test_limits_that_are_near_are_warnings(changed: dict[str, Any], levels: list[str]) -> None:
    assert [finding.level for finding in doctor.limits({**INFO, **changed})] == levels


@pytest.mark.core
@pytest.mark.parametrize(
    ("state", "level"),
    [
        (STATE, "ok"),
        (None, "warning"),
        ({**STATE, "free_bytes": 2**20}, "warning"),
        ({**STATE, "write_failures": 2, "unsaved": 1}, "fault"),
        ({**STATE, "write_failures": 2}, "ok"),
    ],
)
def test_state_that_is_not_kept_or_cannot_be_is_told(state: Any, level: str) -> None:
    assert doctor.state({**INFO, "state": state}).level == level


@pytest.mark.core
def test_every_status_that_keeps_a_worker_out_for_good_has_advice() -> None:
    for status in ("quarantined", "joining", "suspect", "stale", "sleeping", "draining"):
        findings = list(doctor.of_workers([{"url": "http://a", "status": status, "reason": "why"}]))
        assert [(finding.says, bool(finding.advice)) for finding in findings] == [(f"{status}: why", True)]
    assert [finding.level for finding in doctor.of_workers([])] == ["warning"]


@pytest.mark.core
def test_a_target_that_nobody_proves_is_a_fault() -> None:
    def look(**group: Any) -> list[str]:
        base = {"unproven": False, "obstacle": None, "target": "v1"}
        return [finding.level for finding in doctor.of_weights({"groups": {"m": {**base, **group}}})]

    assert (look(), look(unproven=True), look(obstacle="tensors are sent once")) == (["ok"], ["fault"], ["warning"])


@pytest.mark.core
def test_a_worker_that_closes_too_early_is_named() -> None:
    lasts = {"http://a": inf, "http://b": 2.5, "http://c": None}
    findings = list(doctor.idle_connections(list(lasts), 4.0, lambda url, _within_s: lasts[url]))

    assert [(finding.about, finding.level) for finding in findings] == [("http://b", "warning")]
    assert "--idle-reuse 1.5" in findings[0].advice
    assert list(doctor.idle_connections(["http://c"], 4.0, lambda _url, _within_s: None)) == []
    assert doctor.idle_connections(["http://a"], 4.0, lambda _url, _within_s: inf).__next__() == Finding(
        "ok", "keep-alive", "1 workers keep idle connections for the 4 s of their reuse"
    )


async def test_how_long_a_connection_lasts_is_seen_on_the_wire() -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(200, b"{}"))
        await writer.drain()

    async def keeping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing(reader, writer)
        await reader.read()

    async with serving(closing) as closes, serving(keeping) as keeps:
        assert (await asyncio.to_thread(doctor.lasts_s, str(closes), 5.0) or 0.0) < 5.0
        assert await asyncio.to_thread(doctor.lasts_s, str(keeps), 0.05) == inf
    assert await asyncio.to_thread(doctor.lasts_s, "http://127.0.0.1:1", 0.05) is None
    assert await asyncio.to_thread(doctor.lasts_s, "https://127.0.0.1:1", 0.05) is None


async def test_state_and_keep_alive_are_looked_at_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SimInThread() as worker:
        async with running(
            worker.url, state=str(tmp_path / "s.db"), idle_reuse_s=0.2, max_client_connections=100
        ) as router:
            shown = await Shell(str(router.client.base_url), capsys, monkeypatch).run("doctor")
    assert "✓ state: " in shown.out
    assert "✓ keep-alive: 1 workers keep idle connections for the 0.2 s of their reuse" in shown.out
    assert shown.out.splitlines()[-1] == "0 faults, 0 warnings"
