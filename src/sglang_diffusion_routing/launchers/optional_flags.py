"""Find out which of some flags an engine knows, by its own help text."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from sglang_diffusion_routing.launchers.base import LaunchFailed
from sglang_diffusion_routing.launchers.process import Spec, WorkerProcess, describe

_log = structlog.get_logger(__name__)

HELP_LIMIT_S = 120.0
"""An engine imports all of its libraries before it prints its help: 10 s on two slow cores, more from a cold disk."""

_HELP_MAX_BYTES = 2**24


async def known_flags(
    command: Sequence[str], model: str, wanted: Sequence[str], environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Give those of `wanted` that a command's help names; none if it has none to say.

    The answer is kept in a file of this user's cache, under what says whether the engine is still the same one: the
    time at which its program was installed. Of `python -m ENGINE` that says nothing, and it is asked each time.
    """
    kept = None if "-m" in command else _kept_at(command, wanted, environ)
    if kept is not None:
        with suppress(OSError, ValueError):
            return tuple(flag for flag in json.loads(kept.read_text()) if flag in wanted)
    # The model decides which engine answers where a command stands in front of several.
    text = await _help([*command, "--model-path", model, "--help"], environ)
    if text is None:
        return ()
    known = tuple(flag for flag in wanted if re.search(rf"(?<![\w-]){flag}(?![\w-])", text))
    if kept is not None:
        with suppress(OSError):
            _keep(kept, json.dumps(known))
    return known


async def _help(command: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Call an engine for its help, as workers are called: whatever it starts goes with it."""
    with tempfile.TemporaryDirectory(prefix="engine-help-") as folder:
        said = Path(folder) / "help"
        spec = Spec("", command, environ, said, _HELP_MAX_BYTES, secrets.token_hex(16), {})
        try:
            asked = await WorkerProcess.start(spec)
        except LaunchFailed:
            return None  # starting a worker will say it better
        try:
            async with asyncio.timeout(HELP_LIMIT_S):
                ended = await asked.wait()
        except TimeoutError:
            _log.warning("engine_help_timed_out", command=command[0], waited_s=HELP_LIMIT_S)
            return None
        finally:
            asked.kill()
            await asked.wait()
        return said.read_text(errors="replace") if ended.reason == describe(0) else None


def _kept_at(command: Sequence[str], wanted: Sequence[str], environ: Mapping[str, str]) -> Path:
    """Name the file of an answer by the command, the program's own file and when that was last installed."""
    program = shutil.which(command[0], path=environ.get("PATH"))
    changed = ""
    with suppress(OSError):
        changed = str(Path(program).stat().st_mtime_ns) if program else ""
    key = json.dumps([list(command), list(wanted), program, changed])
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = f"{environ.get('HOME') or tempfile.gettempdir()}/.cache"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Path(base) / "sglang-d-router" / f"flags-{name}.json"


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
