"""Lists that are read again and again: what is passed on, and what is said when they fail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.core.discovery import DnsName, ListFile, Named
from sglang_diffusion_routing.launchers.discovery.file import FileReader
from sglang_diffusion_routing.launchers.discovery.watch import Watch
from support.running import eventually

pytestmark = pytest.mark.core


class Kept:
    """Keeps what is passed on; fails once when `fails` is set."""

    def __init__(self) -> None:
        self.readings: list[tuple[str, list[str]]] = []
        self.fails = False

    async def read(self, source: str, named: Sequence[Named]) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("something is wrong")
        self.readings.append((source, [str(one.url) for one in named]))

    async def last(self) -> list[str]:
        return self.readings[-1][1] if self.readings else []


def _write(path: Path, text: str) -> None:
    """Put a file into place whole, and as if it had been there for a minute."""
    new = path.with_suffix(".new")
    new.write_text(text)
    then_s = new.stat().st_mtime - 60.0
    os.utime(new, (then_s, then_s))
    new.rename(path)


async def test_every_list_has_been_read_once_when_the_watch_has_started(tmp_path: Path) -> None:
    _write(tmp_path / "list", "http://a:1\nhttp://b:1")
    kept = Kept()
    watch = Watch([ListFile(str(tmp_path / "list")), DnsName("127.0.0.1", 81)], kept, interval_s=3600)
    await watch.start()
    await watch.aclose()
    assert sorted(kept.readings) == [
        ("dns://127.0.0.1:81", ["http://127.0.0.1:81"]),
        (f"file:{tmp_path}/list", ["http://a:1", "http://b:1"]),
    ]


async def test_a_list_that_fails_changes_nothing_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept, looks = tmp_path / "list", Kept(), 0
    read = FileReader.read

    async def counted(self: FileReader) -> Sequence[Named]:
        nonlocal looks
        looks += 1
        return await read(self)

    async def looked() -> int:
        return looks

    monkeypatch.setattr(FileReader, "read", counted)
    source = f"file:{path}"
    watch = Watch([ListFile(str(path))], kept, interval_s=0.005)
    with capture_logs() as logs:
        await watch.start()
        await eventually(looked, lambda looks: looks > 3)
        _write(path, "http://a:1")
        await eventually(kept.last, lambda last: last == ["http://a:1"])
        _write(path, "")
        before = looks
        await eventually(looked, lambda looks: looks > before + 3)
        assert {tuple(urls) for _, urls in kept.readings} == {("http://a:1",)}
        _write(path, "http://b:1")
        await eventually(kept.last, lambda last: last == ["http://b:1"])
        await watch.aclose()
    assert [(entry["event"], entry["source"], entry.get("reason")) for entry in logs] == [
        ("workers_not_discovered", source, f"{source} cannot be read (No such file or directory)"),
        ("workers_discovered_again", source, None),
        ("workers_not_discovered", source, f"{source} names no worker"),
        ("workers_discovered_again", source, None),
    ]


async def test_a_reading_that_goes_wrong_is_not_the_last(tmp_path: Path) -> None:
    path, kept = tmp_path / "list", Kept()
    _write(path, "http://a:1")
    watch = Watch([ListFile(str(path))], kept, interval_s=0.005)
    await watch.start()
    kept.fails = True
    _write(path, "http://b:1")
    with capture_logs() as logs:
        await eventually(kept.last, lambda last: last == ["http://b:1"])
    await watch.aclose()
    assert [entry["event"] for entry in logs] == ["discovery_failed"]


async def test_no_list_needs_no_watching() -> None:
    watch = Watch([], Kept(), interval_s=1.0)
    await watch.start()
    await watch.aclose()
