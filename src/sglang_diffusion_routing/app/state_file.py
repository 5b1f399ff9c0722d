"""Open the state file that the settings ask for, or say why there is none."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path

import structlog

from sglang_diffusion_routing.errors import BadSetting, StateInUse, StateUnusable
from sglang_diffusion_routing.settings import STATE_AUTO, Settings
from sglang_diffusion_routing.store import Saved, Store
from sglang_diffusion_routing.store.place import default_path, network_filesystem

_log = structlog.get_logger(__name__)

MOUNTS = Path("/proc/self/mountinfo")


async def open_state(settings: Settings, mounts: Path = MOUNTS) -> tuple[Store, Saved | None] | None:
    """Open the state file and read what is to be restored; None when the router goes without.

    It goes without when it is told to, takes any free port, or where its own place is a network file system or cannot
    be written; a file that is there, or was named, must be usable.

    Args:
        mounts: where the system lists its mounts.

    Raises:
        StateUnusable, StateInUse, StateCorrupt, StateTooNew: the file was left as it is.
        BadSetting: what was asked for cannot be restored without a file.
        OSError: the router that has the file also has the address.
    """
    path, why_not = _place(settings)
    if path is not None and (kind := network_filesystem(path, _text_of(mounts))) is not None:
        path, why_not = None, f"{path} is on a network file system ({kind})"
        _log.warning("state_not_kept", reason=why_not)
    if path is None:
        if settings.resume:
            raise BadSetting("--resume", f"needs a state file, and {why_not}")
        _log.debug("no_state", reason=why_not)
        return None
    try:
        return Store.open(path, resume=settings.resume, job_cap=settings.job_cap)
    except StateInUse:
        if settings.state == STATE_AUTO:
            await _ensure_free(settings.host, settings.port)
        raise
    except StateUnusable as error:
        named = settings.state != STATE_AUTO or settings.resume
        if named or type(error) is not StateUnusable or path.exists():
            raise
        _log.warning("state_not_kept", reason=error.message)
        return None


def _place(settings: Settings) -> tuple[Path | None, str]:
    """Give where the state lies, without symbolic links, or why it lies nowhere."""
    if settings.state is None:
        return None, "--no-state forbids one"
    if settings.state != STATE_AUTO:
        return Path(settings.state).resolve(), ""
    if settings.port == 0:
        return None, "--state must name it while the port is any free one"
    path = default_path(os.environ, platform.node(), settings.host, settings.port)
    if path is None:
        return None, "there is neither XDG_STATE_HOME nor HOME to put it into"
    return path.resolve(), ""


def _text_of(mounts: Path) -> str:
    try:
        return mounts.read_text(errors="replace")
    except OSError:
        return ""


async def _ensure_free(host: str, port: int) -> None:
    """Raise OSError where nobody can listen: a second router at one address is told of the port, not of a file."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    server.close()
    await server.wait_closed()
