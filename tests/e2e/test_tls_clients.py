"""HTTPS for clients, as they meet it: the router as a process, curl, the client library and SIGHUP."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_diffusion_routing.http1.certificates import Trust
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.authority import Authority, Files
from support.deadlines import PATIENCE_S, eventually
from support.router import SOURCES, RouterProcess

pytestmark = pytest.mark.e2e


class Served:
    """A router whose certificate stands in files that the test replaces."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.authority = authority
        self.put(authority.issue("127.0.0.1"))

    def put(self, files: Files) -> None:
        shutil.copy(files.cert, self.cert)
        shutil.copy(files.key, self.key)

    @property
    def flags(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def connect(self, port: int) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        return Trust(self.authority.ca).context().wrap_socket(raw, server_hostname="127.0.0.1")

    def serial(self, port: int) -> str:
        with self.connect(port) as tls:
            peer = tls.getpeercert()
        assert peer is not None
        return str(peer["serialNumber"])


@pytest.fixture
def served(tmp_path: Path, authority: Authority) -> Served:
    return Served(tmp_path, authority)


def health(tls: ssl.SSLSocket) -> int:
    tls.sendall(b"GET /liveness HTTP/1.1\r\nHost: a\r\n\r\n")
    return int(tls.recv(65536).split()[1])


def test_the_router_says_where_it_listens_and_what_is_open_to_whom(served: Served) -> None:
    with RouterProcess((), *served.flags, "--admin-port", "0", "--admin-key", "k", "--no-state") as router:
        assert router.said[0] == f"sglang-d-router listening on https://127.0.0.1:{router.port}"
        eventually(lambda: router.said, lambda said: len(said) == 6)
        assert router.said[1].startswith("sglang-d-router control on https://127.0.0.1:")
        assert router.said[2:] == [
            "  work, looking: open to this machine",
            "  control: with the admin key",
            "  workers: at any address",
            "  bytes: encrypted",
        ]
        control = int(router.said[1].rpartition(":")[2])
        assert served.serial(control) == served.serial(router.port)


def test_curl_is_served_when_it_knows_the_authority(served: Served) -> None:
    with SimInThread() as worker, RouterProcess((worker.url,), *served.flags, "--no-state") as router:
        body = json.dumps({"prompt": "a cat", "size": "64x64", "num_inference_steps": 2})
        command = [
            "curl",
            "-sS",
            "--cacert",
            served.authority.ca,
            "--json",
            body,
            "-w",
            " %{http_code} %{http_version}",
        ]
        url = f"https://127.0.0.1:{router.port}/v1/images/generations"
        made = subprocess.run([*command, url], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert made.stdout.endswith(" 200 1.1")
        stranger = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (stranger.returncode, stranger.stdout) == (60, "")
        plain = url.replace("https", "http")
        told = subprocess.run(["curl", "-sS", plain], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert json.loads(told.stdout)["code"] == "https_only"


def test_certificates_are_read_again_without_a_connection_being_dropped(served: Served, authority: Authority) -> None:
    with RouterProcess((), *served.flags, "--no-state") as router:
        before = served.serial(router.port)
        with served.connect(router.port) as standing:
            assert health(standing) == 200
            served.put(authority.issue("127.0.0.1"))
            os.kill(router.pid, signal.SIGHUP)
            eventually(lambda: served.serial(router.port), lambda serial: serial != before)
            assert health(standing) == 200


def test_a_file_that_is_no_use_leaves_the_certificate_as_it_was(served: Served) -> None:
    with RouterProcess((), *served.flags, "--no-state") as router:
        before = served.serial(router.port)
        served.key.write_text("half a file")
        os.kill(router.pid, signal.SIGHUP)
        eventually(router.stderr, lambda text: "reload_failed" in text)
        assert served.serial(router.port) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--tls-cert", "/nowhere"],
            "--tls-cert names a file that cannot be read, /nowhere (no such file or directory)",
        ),
        (["--tls-key", "/nowhere"], "--tls-key says nothing without --tls-cert"),
        (
            ["--worker-ca", "/nowhere"],
            "--worker-ca names a file that cannot be read, /nowhere (no such file or directory)",
        ),
    ],
)
def test_files_that_are_no_use_keep_the_router_from_starting(flags: list[str], message: str) -> None:
    command = [sys.executable, "-m", "sglang_diffusion_routing", "--host", "127.0.0.1", "--port", "0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1] == f"sglang-d-router: {message}"
