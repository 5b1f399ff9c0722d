"""Tests of how it is found out which flags an engine knows."""

import asyncio
import os
from pathlib import Path

import pytest

from sglang_diffusion_routing.launchers.optional_flags import known_flags

pytestmark = pytest.mark.loopback

WANTED = ("--strict-ports", "--sleep-on-idle")


class Engine:
    """A program with a help text, which notes how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine"
        self._asked = folder / "asked"
        self.environ = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(folder / "cache")}

    def says(self, text: str, status: int = 0) -> None:
        self.path.write_text(f"#!/bin/sh\necho \"$@\" >> {self._asked}\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []

    async def known(self) -> tuple[str, ...]:
        return await known_flags([str(self.path), "serve"], "a model", WANTED, self.environ)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("usage: engine [--strict-ports] [--sleep-on-idle | --no-sleep-on-idle]", WANTED),
        ("  --strict-ports-of=X, --not--strict-ports\n  --sleep-on-idle  rest", ("--sleep-on-idle",)),
        ("nothing", ()),
    ],
)
async def test_the_help_decides(engine: Engine, text: str, known: tuple[str, ...]) -> None:
    engine.says(text)
    assert await engine.known() == known


async def test_it_is_asked_once_until_it_is_installed_anew(engine: Engine) -> None:
    engine.says("--strict-ports")
    assert await engine.known() == ("--strict-ports",)
    assert await engine.known() == ("--strict-ports",)
    assert engine.asked == ["serve --model-path a model --help"]
    engine.says("--sleep-on-idle")
    os.utime(engine.path, ns=(1, 1))
    assert await engine.known() == ("--sleep-on-idle",)
    assert len(engine.asked) == 2


async def test_one_that_has_no_help_gets_none_and_is_asked_again(engine: Engine) -> None:
    engine.says("--strict-ports", status=1)
    assert await engine.known() == ()
    engine.says("--strict-ports")
    assert await engine.known() == ("--strict-ports",)


async def test_what_is_started_for_the_help_alone_holds_nothing_up(engine: Engine) -> None:
    engine.path.write_text("#!/bin/sh\nsetsid sleep 1000 &\necho --strict-ports\n")
    engine.path.chmod(0o755)
    async with asyncio.timeout(20):
        assert await engine.known() == ("--strict-ports",)


async def test_a_spoilt_answer_in_the_cache_is_asked_for_again(engine: Engine, tmp_path: Path) -> None:
    engine.says("--strict-ports")
    await engine.known()
    (kept,) = (tmp_path / "cache" / "sglang-d-router").iterdir()
    kept.write_text("[")
    assert await engine.known() == ("--strict-ports",)


async def test_a_program_that_is_not_there_is_no_error_yet(engine: Engine) -> None:
    assert await engine.known() == ()


async def test_an_unwritable_cache_costs_nothing_but_the_asking(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is to be")
    engine.says("--strict-ports")
    assert await engine.known() == ("--strict-ports",)
