"""Commands against a running router, as a shell runs them."""

import asyncio
import json
from typing import Any, NamedTuple

import pytest

from sglang_diffusion_routing import cli


class Shown(NamedTuple):
    """status: of the command's exit."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands in a thread, on a terminal 200 columns wide, against the router at `url`."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        monkeypatch.setenv("SGLANG_D_ROUTER_URL", url)
        monkeypatch.setenv("COLUMNS", "200")

    async def run(self, *words: str) -> Shown:
        self._capsys.readouterr()
        status = await asyncio.to_thread(cli.main, words)
        return Shown(status, *self._capsys.readouterr())
