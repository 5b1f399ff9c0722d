"""A router that runs as a child of whoever needs one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.client.errors import Unreachable
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.integrations.process import RouterFailed, RouterProcess, running_router
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.authority import Authority
from support.deadlines import eventually
from support.pids import is_running
from support.ports import a_free_port
from support.router import SOURCES

LOOPBACK = {"host": "127.0.0.1", "port": 0}


@pytest.fixture
def router(tmp_path: Path) -> Iterator[RouterProcess]:
    router = RouterProcess({**LOOPBACK, "state": tmp_path / "state.db"}, tmp_path / "log")
    router.start()
    yield router
    if router.is_running():
        router.stop()


@pytest.mark.e2e
def test_a_block_has_a_router_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    with SimInThread(SimSettings()) as worker, running_router(log=log, worker_urls=[worker.url]) as url:
        with Client(url) as client:
            images = client.images("a fox", size="64x64", num_inference_steps=1)
            assert [one["url"] for one in client.workers()] == [worker.url]
        assert images.images[0].data
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)
    assert "shutting_down" in log.read_text()


@pytest.mark.e2e
@pytest.mark.parametrize("where", ["setting", "environment", "file"])
@pytest.mark.parametrize("kinds", [("api",), ("admin",), ("api", "admin")])
def test_its_own_client_has_its_keys(
    where: str, kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, object] = dict(LOOPBACK)
    for kind in kinds:
        (tmp_path / kind).write_text(f"# of {kind}\n\n{kind}-key\nother-key\n")
        match where:
            case "setting":
                settings[f"{kind}_key"] = f"{kind}-key,other-key"
            case "environment":
                monkeypatch.setenv(f"SGLANG_D_ROUTER_{kind.upper()}_KEY", f"{kind}-key")
            case _:
                settings[f"{kind}_key_file"] = str(tmp_path / kind)
    router = RouterProcess(settings, tmp_path / "log")
    router.start()
    try:
        assert httpx2.post(f"{router.url}/pause_generation").status_code == 401
        with router.client() as client:
            assert client.pause()["status"] == "paused"
            assert client.workers() == []
    finally:
        router.stop()
    assert "-key" not in " ".join(map(str, [router.settings, (tmp_path / "log").read_text()]))


@pytest.mark.e2e
def test_its_own_client_goes_where_control_is(tmp_path: Path) -> None:
    router = RouterProcess({**LOOPBACK, "admin_port": a_free_port()}, tmp_path / "log")
    router.start()
    try:
        assert httpx2.get(f"{router.url}/workers").status_code == 403
        with router.client() as client:
            assert client.workers() == []
            assert client.health()["total_workers"] == 0
    finally:
        router.stop()


@pytest.mark.e2e
def test_its_own_client_trusts_its_certificate_and_no_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, another = authority.issue("router.example"), authority.issue("router.example")
    router = RouterProcess({**LOOPBACK, "tls_cert": own.cert, "tls_key": own.key}, tmp_path / "log")
    router.start()
    try:
        assert router.url.startswith("https://127.0.0.1:")
        with router.client() as client:
            assert client.workers() == []
        router.settings = router.settings.model_copy(update={"tls_cert": another.cert})
        with router.client() as client, pytest.raises(Unreachable):
            client.workers()
    finally:
        router.stop()


@pytest.mark.e2e
def test_it_ends_in_order_and_starts_again_at_its_port(router: RouterProcess) -> None:
    url, first = router.url, router.pid
    assert router.stop() == 0
    assert not router.is_running()
    router.start()
    assert (router.url, router.is_running()) == (url, True)
    assert router.pid != first
    with pytest.raises(RuntimeError, match="runs already"):
        router.start()


@pytest.mark.e2e
def test_a_killed_one_knows_its_workers_when_it_is_started_again(router: RouterProcess) -> None:
    with SimInThread(SimSettings()) as worker:
        httpx2.post(f"{router.url}/workers", json={"url": worker.url}).raise_for_status()
        os.kill(router.pid, signal.SIGKILL)
        assert router.wait() == -signal.SIGKILL
        router.start()
        assert httpx2.get(f"{router.url}/list_workers").json() == {"urls": [worker.url]}


@pytest.mark.e2e
def test_it_ends_with_its_starter_however_that_ends(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from sglang_diffusion_routing.integrations.process import RouterProcess\n"
        f"router = RouterProcess({LOOPBACK!r}, Path({str(tmp_path / 'log')!r})); router.start()\n"
        "print(router.pid, flush=True); import time; time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SOURCES)}
    )
    with starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    eventually(lambda: is_running(pid), lambda there: not there)
    assert "shutting_down" in (tmp_path / "log").read_text()


@pytest.mark.e2e
def test_one_that_cannot_listen_says_so(router: RouterProcess, tmp_path: Path) -> None:
    log = tmp_path / "second"
    with pytest.raises(RouterFailed, match=f"^the router ended with status 1 before it listened; .* is in {log}$"):
        RouterProcess({**LOOPBACK, "port": router.port}, log).start()
    assert f"cannot listen on 127.0.0.1:{router.port}: the port is in use" in log.read_text()


@pytest.mark.e2e
def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    router = RouterProcess(LOOPBACK, tmp_path / "log")
    with pytest.raises(RouterFailed, match="did not listen within 0"):
        router.start(within_s=0.0)
    assert not router.is_running()


@pytest.mark.e2e
def test_it_names_an_address_that_can_be_reached(tmp_path: Path) -> None:
    with running_router(log=tmp_path / "log", host="0.0.0.0") as url:
        assert httpx2.get(f"{url}/liveness").status_code == 200
    router = RouterProcess({})
    router._address = ("https", "[::]", 81)
    assert (router.url, router.url_at("10.0.0.1")) == ("https://[::1]:81", "https://10.0.0.1:81")
    assert router.url_at("fd00::1") == "https://[fd00::1]:81"


@pytest.mark.core
def test_what_is_wrong_is_said_before_anything_starts() -> None:
    with pytest.raises(BadSetting, match="did you mean worker_urls"):
        RouterProcess({"worker_url": ["http://a:1"]})
    with pytest.raises(BadSetting, match="--port"):
        RouterProcess({"port": -1})


@pytest.mark.core
def test_one_that_was_not_started_has_no_address() -> None:
    router = RouterProcess({})
    assert not router.is_running()
    for use in (lambda: router.url, lambda: router.pid, router.wait, router.stop):
        with pytest.raises(RuntimeError, match="has not been started"):
            use()
