"""A router in a process of its own, which ends with the process that has started it."""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from pydantic import SecretStr

from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.integrations import serving
from sglang_diffusion_routing.settings import Settings

START_S = 60.0
"""Long enough for a cold start on a busy machine; more where the router starts workers itself."""

_END_S = 10.0
"""How long the end takes beyond the grace for requests in flight, before it is killed."""

_LISTENING = re.compile(rb"listening on (https?)://(\S+):([0-9]+)\s")
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # the wildcards of RFC 4291 §2.5.2 and RFC 1122 §3.2.1.3


class RouterFailed(RuntimeError):
    """The router did not start: it ended, or did not listen in time."""


class RouterProcess:
    """`sglang-d-router` as a child of this process; it ends with it, however that ends.

    It has its own interpreter, so that a busy trainer takes nothing from it. Its settings travel through a pipe: keys
    show in no list of processes.

    Args:
        settings: by their YAML names. The environment counts too, and gives way to these.
        log: a file for its log, which is appended to; None for this process's standard error.

    Raises:
        BadSetting: a setting is unknown, or its value bad.
    """

    def __init__(self, settings: Mapping[str, object], log: Path | None = None) -> None:
        self._given = serving.plain(settings)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread()
        self._address: tuple[str, str, int] | None = None
        self.settings: Settings = serving.read(settings)

    @property
    def url(self) -> str:
        """Give where it is reached from this machine."""
        scheme, host, port = self._where
        return f"{scheme}://{_ANY_ADDRESS.get(host, host)}:{port}"

    @property
    def port(self) -> int:
        return self._where[2]

    @property
    def pid(self) -> int:
        return self._started.pid

    def url_at(self, host: str) -> str:
        """Give where it is reached at `host`, a name or an address of this machine."""
        scheme, _, port = self._where
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Give a client that has the router's own keys, and goes where control is."""
        settings, url = self.settings, self.url
        if settings.admin_port is not None:
            host = f"[{settings.admin_host}]" if ":" in settings.admin_host else settings.admin_host
            url = f"{self._where[0]}://{_ANY_ADDRESS.get(host, host)}:{settings.admin_port}"
        key = _first(settings.admin_key, settings.admin_key_file) or _first(settings.api_key, settings.api_key_file)
        with ExitStack() as stack:
            http = None
            if settings.tls_cert is not None:
                trusted = _only(settings.tls_cert)
                http = stack.enter_context(httpx2.Client(base_url=url, trust_env=False, verify=trusted))
            yield stack.enter_context(Client(url, api_key=key, admin_key=key, http=http))

    def start(self, within_s: float = START_S) -> None:
        """Start it and wait until it listens. One that has ended may be started again, and has its port again then.

        Raises:
            RouterFailed: it ended, or did not listen within `within_s`.
            RuntimeError: it runs already.
        """
        if self.is_running():
            raise RuntimeError("the router runs already")
        given = self._given if self._address is None else {**self._given, "port": self.port}
        with ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(self._log.open("ab"))
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", serving.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,  # Ctrl-C is for whoever started it, who ends it in order
                env={**os.environ, "PYTHONPATH": _search_path()},
            )
        self._process = process
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(process, listening), name="router-output", daemon=True)
        self._reader.start()
        assert process.stdin is not None
        # The pipe stays open: its end is the end of the router.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
        self._await_listening(process, listening, within_s)

    def wait(self) -> int:
        """Wait for its end and give the exit status."""
        status = self._started.wait()
        self._reader.join(_END_S)
        return status

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """End it in order, and give the exit status. It is killed if it takes longer than its `shutdown_grace`."""
        process = self._started
        process.terminate()
        try:
            process.wait(self.settings.shutdown_grace_s + _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return self.wait()

    @property
    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the router has not been started")
        return self._process

    @property
    def _where(self) -> tuple[str, str, int]:
        if self._address is None:
            raise RuntimeError("the router has not been started")
        return self._address

    def _await_listening(self, process: "subprocess.Popen[bytes]", listening: threading.Event, within_s: float) -> None:
        if listening.wait(within_s) and process.poll() is None:
            return
        if process.poll() is None:
            self.stop()
            raise RouterFailed(f"the router did not listen within {within_s:g} s")
        self.wait()
        said = "on standard error" if self._log is None else f"in {self._log}"
        status = process.returncode
        raise RouterFailed(f"the router ended with status {status} before it listened; what it said is {said}")

    def _read(self, process: "subprocess.Popen[bytes]", listening: threading.Event) -> None:
        """Take what it says, to its end: a pipe that nobody empties would stop it some day."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if found := _LISTENING.search(line):
                    scheme, host, port = found.groups()
                    self._address = (scheme.decode(), host.decode(), int(port))
                    listening.set()
        process.wait()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        listening.set()


@contextmanager
def running_router(*, log: Path | None = None, start_s: float = START_S, **settings: Any) -> Iterator[str]:
    """Run a router for the length of a block, and give its URL.

    It listens on any free port of the loopback address, if `host` and `port` say nothing else.

    Args:
        log: a file for its log; None for this process's standard error.
        start_s: how long it may take until it listens; more where it starts workers itself.
        settings: those of the router, by their YAML names: `worker_urls=[...]`, `max_concurrency_per_worker=4`.

    Raises:
        BadSetting: a setting is unknown, or its value bad.
        RouterFailed: it did not start.
    """
    router = RouterProcess({"host": "127.0.0.1", "port": 0, **settings}, log)
    router.start(start_s)
    try:
        yield router.url
    finally:
        router.stop()


def _search_path() -> str:
    """Let the child find this package where this process has found it."""
    source = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))


def _first(keys: tuple[SecretStr, ...], file: str | None) -> str | None:
    """Give one of the keys that the settings name; files have one a line, and comments."""
    if keys:
        return keys[0].get_secret_value()
    lines = Path(file).read_text(encoding="latin-1").splitlines() if file is not None else []
    return next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), None)


def _only(certificate: str) -> ssl.SSLContext:
    """Trust this certificate alone, whomever it names: the router is reached by the address of its machine."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
