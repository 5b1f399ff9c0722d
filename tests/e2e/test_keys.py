"""A router with keys, as its users meet it: the client library, the commands, the workers, SIGHUP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_diffusion_routing.client import Client, Refused
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.client import ask, request
from support.deadlines import eventually
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    files = {"api": tmp_path / "api.keys", "admin": tmp_path / "admin.keys"}
    files["api"].write_text("# of the trainers\ns3cret-data\n")
    files["admin"].write_text("s3cret-admin\n")
    return files


@pytest.fixture
def router(keys: dict[str, Path], tmp_path: Path) -> Iterator[RouterProcess]:
    flags = ("--api-key-file", str(keys["api"]), "--admin-key-file", str(keys["admin"]))
    with SimProcess() as worker, RouterProcess([worker.url], *flags, "--audit-log", str(tmp_path / "audit")) as router:
        router.wait_until_healthy(1)
        yield router


def run(router: RouterProcess, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sglang_diffusion_routing", *words, "--url", f"http://127.0.0.1:{router.port}"],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SOURCES), **environ},
    )


def test_the_client_works_with_one_key_and_steers_with_the_other(router: RouterProcess, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{router.port}"
    with Client(url, api_key="s3cret-data", admin_key="s3cret-admin") as client:
        assert client.images("a fox", size="64x64", num_inference_steps=2)
        assert client.workers()
        write_checkpoint(tmp_path / "step-1", seed=1)
        client.refit(str(tmp_path / "step-1"), weight_version="step-1")
        client.sleep()
        client.wake()
    with Client(url, api_key="s3cret-data") as client:
        assert client.workers()
        with pytest.raises(Refused) as caught:
            client.sleep()
        assert (caught.value.status, caught.value.code) == (403, "admin_key_needed")
    with Client(url) as client, pytest.raises(Refused) as caught:
        client.images("a fox", size="64x64")
    assert (caught.value.status, caught.value.code) == (401, "key_missing")


def test_the_commands_take_their_keys_from_the_environment_or_from_files(
    router: RouterProcess, keys: dict[str, Path]
) -> None:
    refused = run(router, "workers", "list")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "this needs a key" in refused.stderr
    data, admin = {"SGLANG_D_ROUTER_API_KEY": "s3cret-data"}, {"SGLANG_D_ROUTER_ADMIN_KEY": "s3cret-admin, older-key"}
    for words in (("workers", "list"), ("weights",), ("top", "--once"), ("doctor",)):
        assert run(router, *words, **data).returncode in {0, 1}, words
    assert run(router, "sleep", **data).returncode == 4
    assert run(router, "sleep", **data, **admin).returncode == 0
    assert run(router, "wake", SGLANG_D_ROUTER_ADMIN_KEY_FILE=str(keys["admin"])).returncode == 0


def test_keys_are_rotated_without_an_end_of_service(router: RouterProcess, keys: dict[str, Path]) -> None:
    def status(key: str) -> int:
        return ask(router.port, request(b"GET", b"/workers", b"Authorization: Bearer " + key.encode())).status

    assert (status("s3cret-data"), status("next-key")) == (200, 401)
    keys["api"].write_text("next-key\ns3cret-data\n")
    router.signal(signal.SIGHUP)
    eventually(lambda: status("next-key"), lambda got: got == 200)
    assert status("s3cret-data") == 200
    keys["api"].write_text("next-key\n")
    router.signal(signal.SIGHUP)
    eventually(lambda: status("s3cret-data"), lambda got: got == 401)
    assert status("next-key") == 200
    # What cannot be read leaves the keys as they are.
    keys["api"].write_text("")
    router.signal(signal.SIGHUP)
    eventually(router.stderr, lambda log: "reload_failed" in log)
    assert (status("next-key"), router.is_running()) == (200, True)


def test_each_change_is_written_down_with_its_key_s_digest(router: RouterProcess, tmp_path: Path) -> None:
    def changed() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]

    with Client(f"http://127.0.0.1:{router.port}", admin_key="s3cret-admin") as client:
        client.pause()
        client.resume()
        client.workers()
    records = eventually(changed, lambda found: len(found) == 2)
    assert [(record["path"], record["status"]) for record in records] == [
        ("/pause_generation", 200),
        ("/continue_generation", 200),
    ]
    # The first digits of the key's SHA-256.
    assert {record["key"] for record in records} == {"admin:77a4e206"}
    assert all(record["peer"].startswith("127.0.0.1:") and len(record["request_id"]) == 32 for record in records)
    (tmp_path / "audit").rename(tmp_path / "audit.1")
    router.signal(signal.SIGHUP)
    eventually((tmp_path / "audit").exists, lambda is_there: is_there)


def test_no_key_is_ever_shown(router: RouterProcess) -> None:
    admin = b"x-api-key: s3cret-admin"
    asked = (b"/router_info", b"/workers", b"/metrics", b"/openapi.json", b"/weights", b"/refits")
    shown = b"".join(ask(router.port, request(b"GET", path, admin)).body for path in asked)
    shown += b"".join(
        ask(router.port, request(b"POST", path, field, body=b"{")).body
        for path in (b"/workers", b"/pause_generation", b"/x")
        for field in (admin, b"x-api-key: s3cret-data", b"x-api-key: s3cret-wrong")
    )
    shown += router.stderr().encode() + "".join(router.said).encode()
    assert [key for key in (b"s3cret-admin", b"s3cret-data", b"s3cret-wrong") if key in shown] == []


def test_every_call_on_a_worker_has_the_worker_s_own_key(tmp_path: Path) -> None:
    with ScriptedWorker() as mine, ScriptedWorker() as other:
        heads: dict[str, list[tuple[bytes, list[bytes]]]] = {mine.url: [], other.url: []}
        for worker in (mine, other):
            worker.automatic.clear()

            def take(exchange: Any, url: str = worker.url) -> None:
                heads[url].append((exchange.target, exchange.values(b"authorization")))
                exchange.answer(body=b'{"status":"ok","success":true,"data":[]}')

            worker.handler = take
        keys = tmp_path / "workers.yaml"
        keys.write_text(f"{mine.url}: its-own-key\n")
        flags = ("--worker-keys", str(keys), "--api-key", "s3cret-data")
        with RouterProcess([mine.url, other.url], *flags) as router:
            router.wait_until_healthy(2)
            key = b"x-api-key: s3cret-data"
            for path in (b"/v1/images/generations", b"/x", b"/release_memory_occupation", b"/get_weights_checksum"):
                for _ in range(3):
                    ask(router.port, request(b"POST", path, key, body=b"{}"))
            ask(router.port, request(b"GET", b"/v1/videos/job-1", key))
            seen = (
                "".join(router.said)
                + router.stderr()
                + ask(router.port, request(b"GET", b"/workers", key)).body.decode()
            )
        assert {tuple(values) for _, values in heads[mine.url]} == {(b"Bearer its-own-key",)}
        assert {tuple(values) for _, values in heads[other.url]} == {()}
        targets = {target for target, _ in heads[mine.url]}
        assert {b"/health", b"/v1/models", b"/release_memory_occupation"} <= targets
        assert "its-own-key" not in seen


def test_control_has_a_port_of_its_own() -> None:
    with SimProcess() as worker, RouterProcess([worker.url], "--admin-port", "0") as router:
        router.wait_until_healthy(1)
        (line,) = eventually(lambda: [line for line in router.said if "control on" in line], bool)
        port = int(line.rpartition(":")[2])
        assert line == f"sglang-d-router control on http://127.0.0.1:{port}"
        assert ask(router.port, request(b"GET", b"/workers")).code == "control_elsewhere"
        assert ask(port, request(b"GET", b"/workers")).status == 200
        with Client(f"http://127.0.0.1:{port}") as client:
            client.sleep()
            client.wake()


def test_a_taken_control_port_is_named() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = subprocess.run(
            [sys.executable, "-m", "sglang_diffusion_routing", "--port", "0", "--no-state", "--admin-port", port],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.splitlines()[-1] == f"sglang-d-router: cannot listen on 127.0.0.1:{port}: the port is in use"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--api-key", "schlüssel-s3cret"], "--api-key must be visible ASCII characters"),
        (["--api-key", ","], "--api-key must not be empty"),
        (["--admin-key-file", "/no/such"], "--admin-key-file /no/such cannot be read: No such file or directory"),
        (["--audit-log", "/no/such/log"], "--audit-log /no/such/log cannot be written: No such file or directory"),
    ],
)
def test_keys_that_cannot_be_stop_the_start_without_being_shown(flags: list[str], sentence: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "sglang_diffusion_routing", "--port", "0", "--no-state", *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.splitlines()[-1] == f"sglang-d-router: {sentence}"
    assert "s3cret" not in told.stderr


def test_a_router_with_nothing_to_read_again_ends_with_its_terminal() -> None:
    with RouterProcess([]) as router:
        router.signal(signal.SIGHUP)
        assert router.wait() == -signal.SIGHUP


def test_a_router_goes_on_at_a_hangup_for_its_audit_log_alone(tmp_path: Path) -> None:
    with RouterProcess([], "--audit-log", str(tmp_path / "audit")) as router:
        (tmp_path / "audit").unlink()
        router.signal(signal.SIGHUP)
        eventually((tmp_path / "audit").exists, lambda is_there: is_there)
        assert ask(router.port, request(b"POST", b"/pause_generation", body=b"{}")).status == 200
        eventually((tmp_path / "audit").read_text, lambda text: '"key": "none"' in text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_under_the_audit_log_hurts_nobody() -> None:
    with RouterProcess([], "--audit-log", "/dev/full") as router:
        for path in (b"/pause_generation", b"/continue_generation") * 10:
            assert ask(router.port, request(b"POST", path, body=b"{}")).status == 200
        log = eventually(router.stderr, lambda log: "audit_log_not_written" in log)
        assert (log.count("audit_log_not_written"), log.count("control_change")) == (1, 20)
