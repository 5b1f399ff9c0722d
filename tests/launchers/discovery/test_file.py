"""What a file may say, and when it counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sglang_diffusion_routing.core.discovery import Named
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.launchers.discovery import file as module
from sglang_diffusion_routing.launchers.discovery.file import FileReader, parse
from sglang_diffusion_routing.launchers.discovery.reading import Unreadable

pytestmark = pytest.mark.core

A, B = (WorkerUrl("http", host, 30000) for host in ("a", "b"))

GOOD = {
    "http://a:30000": [Named(A)],
    "http://a:30000\nhttp://b:30000\n": [Named(A), Named(B)],
    "\n  HTTP://A:30000/  # first\r\n\r\n# http://x:1\nhttp://b:30000 # second": [Named(A), Named(B)],
    "\ufeffhttp://a:30000\n": [Named(A)],
    "- http://a:30000\n- http://b:30000\n": [Named(A), Named(B)],
    "# workers\n---\n\n- http://a:30000 # first\n- url: http://b:30000\n": [Named(A), Named(B)],
    '["http://a:30000", {"url": "http://b:30000"}]': [Named(A), Named(B)],
    "- url: http://a:30000\n  labels: {zone: x, group: g}\n  max_concurrency: 4\n": [
        Named(A, (("group", "g"), ("zone", "x")), 4)
    ],
    "": [],
    "# nobody yet\n": [],
    "[]": [],
}


@pytest.mark.parametrize(("text", "named"), GOOD.items())
def test_a_list_is_a_url_a_line_or_yaml(text: str, named: list[Named]) -> None:
    assert parse(text.encode()) == named


BAD = {
    "http://a:30000\ngpu-1:30000\n": r"has no worker in line 2: worker URL 'gpu-1:30000' must begin with http://",
    "http://a:30000 http://b:30000": r"has no worker in line 1: .* has a space",
    "http://169.254.169.254": r"has no worker in line 1: .* is the metadata service of a cloud",
    "workers: [http://a:1]": r"has no worker in line 1: .* has a space",
    "- http://a:1\n- 30000\n": r"has no worker in line 2: url: input should be a valid string",
    "- http://a:1\n- uri: http://b:1\n": r"has no worker in line 2: url: field required",
    "- url: http://a:1\n  group: x\n": r"has no worker in line 1: group: extra inputs are not permitted",
    "- url: http://a:1\n  labels: {'': x}\n": r"has no worker in line 1: labels\.\.\[key\]: string should match",
    "- [http://a:1]\n": r"has no worker in line 1: url: ",
    "- http://a:1\n- {": r"is not valid YAML at line \d",
    "- !!python/name:os.system\n": r"is not valid YAML at line 1",
}


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_a_line_that_is_no_worker_spoils_the_whole(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=f"^{why}"):
        parse(text.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(Unreadable, match=r"^is not UTF-8$"):
        parse(b"http://\xff\xfe")


def _write(path: Path, text: str, *, age_s: float = 60.0) -> None:
    path.write_text(text)
    now_s = path.stat().st_mtime
    os.utime(path, (now_s, now_s - age_s))


async def test_a_file_is_read_anew_each_time_also_when_another_takes_its_place(tmp_path: Path) -> None:
    path, other = tmp_path / "workers", tmp_path / "other"
    reader = FileReader(str(path))
    _write(path, "http://a:30000")
    assert await reader.read() == [Named(A)]
    _write(other, "http://b:30000\nhttp://b:30000")
    other.rename(path)
    assert await reader.read() == [Named(B)]


async def test_a_file_that_is_missing_or_empty_or_too_large_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "workers"
    reader = FileReader(str(path))
    with pytest.raises(Unreadable, match=r"^cannot be read \(No such file or directory\)$"):
        await reader.read()
    _write(path, "\n")
    with pytest.raises(Unreadable, match=r"^names no worker$"):
        await reader.read()
    _write(path, "#" * (module.FILE_MAX_BYTES + 1))
    with pytest.raises(Unreadable, match=r"^is larger than 1 MiB$"):
        await reader.read()
    with pytest.raises(Unreadable, match=r"^cannot be read \(Is a directory\)$"):
        await FileReader(str(tmp_path)).read()


async def test_a_file_that_is_being_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "workers"
    _write(path, "http://a:300", age_s=0.0)
    looks = 0

    def contents(path: Path) -> tuple[bytes, float]:
        nonlocal looks
        looks += 1
        read = plain(path)
        path.write_text("http://a:30000")
        return read

    plain = module._contents
    monkeypatch.setattr(module, "_contents", contents)
    monkeypatch.setattr(module, "SETTLED_S", 0.01)
    # As young as can be, whatever the clock of the file says.
    os.utime(path, (path.stat().st_mtime + 60.0,) * 2)
    with pytest.raises(Unreadable, match=r"^is being written$"):
        await FileReader(str(path)).read()
    assert looks == 2


async def test_a_file_that_was_just_written_counts_when_it_is_the_same_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "workers"
    _write(path, "http://a:30000", age_s=-60.0)
    monkeypatch.setattr(module, "SETTLED_S", 0.01)
    assert await FileReader(str(path)).read() == [Named(A)]
