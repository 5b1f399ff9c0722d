"""Which state file the settings ask for."""

import platform
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.app.state_file import open_state
from sglang_diffusion_routing.errors import BadSetting, StateCorrupt, StateInUse, StateUnusable
from sglang_diffusion_routing.settings import Settings
from sglang_diffusion_routing.store import Store
from support.mounts import mounted

LOCAL = Path("/nowhere")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


async def opened_at(settings: Settings, mounts: Path = LOCAL) -> Path | None:
    opened = await open_state(settings, mounts)
    if opened is None:
        return None
    store, _ = opened
    await store.close(clean=False)
    return store.path


def shared(home: Path) -> Path:
    """Give a list of mounts on which the home lies on a file server."""
    mounts = home / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / {home} rw - nfs4 filer:/home rw\n")
    return mounts


async def test_the_file_is_called_after_machine_host_and_port(home: Path) -> None:
    expected = home / "sglang-d-router" / f"{platform.node()}-127.0.0.1-30080.db"
    assert await opened_at(Settings(host="127.0.0.1")) == expected


async def test_a_file_that_is_named_is_taken_also_with_any_free_port(home: Path) -> None:
    (home / "to").mkdir()
    (home / "link").symlink_to(home / "to")
    assert await opened_at(Settings(port=0, state=str(home / "link" / "x.db"))) == home / "to" / "x.db"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(state="off"), "--no-state forbids one"),
        (Settings(port=0), "--state must name it while the port is any free one"),
    ],
)
async def test_there_may_be_none(settings: Settings, reason: str) -> None:
    with capture_logs() as logs:
        assert await open_state(settings) is None
    assert logs == [{"event": "no_state", "log_level": "debug", "reason": reason}]
    with pytest.raises(BadSetting) as caught:
        await open_state(settings.model_copy(update={"resume": True}))
    assert caught.value.message == f"--resume needs a state file, and {reason}"


async def test_without_a_home_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    assert await open_state(Settings()) is None


@pytest.mark.parametrize("named", [True, False])
async def test_a_network_file_system_is_told_and_left_alone(home: Path, named: bool) -> None:
    mounts, path = shared(home), home / "sglang-d-router" / f"{platform.node()}-0.0.0.0-30080.db"
    settings = Settings(state=str(path)) if named else Settings()
    with capture_logs() as logs:
        assert await opened_at(settings, mounts) is None
    reason = f"{path} is on a network file system (nfs4)"
    assert logs[0] == {"event": "state_not_kept", "log_level": "warning", "reason": reason}
    assert not path.parent.exists()
    with pytest.raises(BadSetting, match=r"--resume needs a state file, and .* is on a network file system"):
        await open_state(settings.model_copy(update={"resume": True}), mounts)


async def test_a_home_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(size_bytes=2**20) as mount, capture_logs() as logs:
        mount.make_read_only()
        monkeypatch.setenv("XDG_STATE_HOME", str(mount.path))
        assert await open_state(Settings(), LOCAL) is None
        assert [entry["event"] for entry in logs] == ["state_not_kept"]
        assert logs[0]["reason"].endswith("cannot be opened: read-only file system")
        with pytest.raises(StateUnusable, match="read-only file system"):
            await open_state(Settings(resume=True), LOCAL)
        with pytest.raises(StateUnusable, match="read-only file system"):
            await open_state(Settings(state=str(mount.path / "x.db")), LOCAL)


async def test_a_file_that_is_there_must_be_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(size_bytes=2**20) as mount:
        monkeypatch.setenv("XDG_STATE_HOME", str(mount.path))
        path = await opened_at(Settings())
        assert path is not None
        mount.make_read_only()
        with pytest.raises(StateUnusable, match="read-only file system"):
            await open_state(Settings(), LOCAL)


async def test_a_damaged_file_is_no_reason_to_go_without(home: Path) -> None:
    path = await opened_at(Settings())
    assert path is not None
    path.write_bytes(b"x" * 4096)
    with pytest.raises(StateCorrupt):
        await open_state(Settings(), LOCAL)


async def test_a_second_router_at_one_address_is_told_of_the_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(host="127.0.0.1", port=taken.getsockname()[1])
        path = await opened_at(settings)
        assert path is not None
        store, _ = Store.open(path, resume=False, job_cap=1)
        with pytest.raises(OSError, match="address already in use"):
            await open_state(settings, LOCAL)
    # Somebody has the file and not the port, as in another container.
    with pytest.raises(StateInUse):
        await open_state(settings, LOCAL)
    await store.close(clean=False)
