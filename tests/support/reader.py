"""Somebody who follows a page: a folder, a shell, a Python, and simulated workers where the page has workers."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.client import ask, request
from support.deadlines import eventually
from support.pages import ROOT, Command
from support.router import SOURCES

COMMAND_S = 60.0
END_S = 20.0

_ADDRESS = re.compile(r"\b(localhost|127\.0\.0\.1|10(?:\.\d+){3}|gpu-\w+):(\d{4,5})\b")
_PORT = re.compile(r"(?<=--port[ =])(\d{4,5})\b")
_CHECKPOINT = re.compile(r"/checkpoints/([\w.-]+)")
_READY = re.compile(r"listening on http|ready on http")
_ROUTER = ("127.0.0.1", 30080)

# What the machines of readers have and this one has not. An engine's own flags mean nothing to the simulated one.
_PROGRAMS = {
    "sglang-d-router": '#!/bin/sh\nexec "{python}" -m sglang_diffusion_routing "$@"\n',
    "python": '#!/bin/sh\nexec "{python}" "$@"\n',
    "python3": '#!/bin/sh\nexec "{python}" "$@"\n',
    "sglang": """\
#!/bin/bash
[[ $1 == serve ]] || exit 2
flags=(--speed 100)
shift
while (($#)); do
  case $1 in
    --model-path | --num-gpus | --host | --port | --master-port | --scheduler-port) flags+=("$1" "$2"); shift 2 ;;
    --strict-ports | --help) flags+=("$1"); shift ;;
    *) shift ;;
  esac
done
exec "{python}" -m sglang_diffusion_routing sim "${{flags[@]}}"
""",
}

# Runs one block after the other in one namespace, and says of each what went wrong.
_PYTHON = """
import json, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
names = {"__name__": "__main__"}
for order in map(json.loads, sys.stdin):
    try:
        exec(compile(order["text"], order["where"], "exec"), names)
        fault = ""
    except BaseException:
        fault = traceback.format_exc()
    print(json.dumps(fault), file=answers, flush=True)
"""


class Shown(NamedTuple):
    """output: both streams, as a terminal shows them."""

    status: int
    output: str


class Reader:
    """Follows pages; as a context manager it ends all that it has started.

    Ports are free ones: the page's addresses are replaced before a command runs, each always by the same. Whoever is
    not there yet and is spoken to is started: the router at localhost:30080 before two image workers and a video
    worker, simulated workers at all other addresses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        self._checkpoints = folder / "checkpoints"
        self._state = folder / "env.sh"
        self._ports: dict[tuple[str, int], int] = {}
        self._started: list[SimProcess] = []
        self._endless: list[_Endless] = []
        self._router: _Endless | None = None
        self._python: subprocess.Popen[str] | None = None
        self._printed = folder / "python.out"
        self.folder.mkdir(parents=True)
        for name in ("examples", "src", "bench", "tests", "tools", "pyproject.toml", "Makefile"):
            (self.folder / name).symlink_to(ROOT / name)
        for path in (folder / "bin", self.folder / ".engine", self.folder / ".venv" / "bin"):
            path.mkdir(parents=True)
            for name, text in _PROGRAMS.items():
                (path / name).write_text(text.format(python=sys.executable))
                (path / name).chmod(0o755)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SGLANG_D_ROUTER_")},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCES),
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
            "COLUMNS": "120",
            "SGLANG_D_ROUTER_HOST": "127.0.0.1",
            "SGLANG_D_ROUTER_PORT": str(self.port(*_ROUTER)),
            "SGLANG_D_ROUTER_URL": self.url,
        }

    @property
    def url(self) -> str:
        """Address of the router that the page speaks of."""
        return f"http://127.0.0.1:{self.port(*_ROUTER)}"

    def port(self, host: str, port: int) -> int:
        """Give what stands for a port of a host that the page names."""
        key = ("127.0.0.1" if host == "localhost" else host, port)
        if key not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[key] = free.getsockname()[1]
        return self._ports[key]

    def here(self, text: str) -> str:
        """Put what this machine has in the place of the page's addresses and checkpoints."""
        for name in _CHECKPOINT.findall(text):
            if not (self._checkpoints / name).exists():
                write_checkpoint(self._checkpoints / name, seed=len(list(self._checkpoints.glob("*"))) + 1)
        text = _CHECKPOINT.sub(lambda found: str(self._checkpoints / found[1]), text)
        text = _ADDRESS.sub(lambda found: f"127.0.0.1:{self.port(found[1], int(found[2]))}", text)
        return _PORT.sub(lambda found: str(self.port("127.0.0.1", int(found[1]))), text)

    def run(self, command: Command) -> Shown:
        """Run a command in the shell of the page; one that goes on for ever is started, and goes on."""
        kind = endless(command)
        self._see_that_they_are_there(command.text, starts_router=kind == "router")
        text = self.here(command.text).rstrip().removesuffix("&")
        if kind:
            started = _Endless(self._script(text), self.folder, self.environ)
            self._endless.append(started)
            said = started.until_ready()
            if kind == "router":
                self._router = started
                self._await_workers()
            return Shown(0, said)
        done = subprocess.run(
            ["bash", "-c", f'{self._script(text)}\nstatus=$?; export -p >"{self._state}"; exit $status'],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            cwd=self.folder,
            env=self.environ,
        )
        return Shown(done.returncode, done.stdout)

    def python(self, text: str, where: str) -> None:
        """Run Python code in the namespace of the page."""
        self._see_that_they_are_there(text)
        if self._python is None:
            with self._printed.open("w") as printed:
                self._python = subprocess.Popen(
                    [sys.executable, "-c", _PYTHON],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=printed,
                    text=True,
                    cwd=self.folder,
                    env=self.environ,
                )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        print(json.dumps({"text": self.here(text), "where": where}), file=self._python.stdin, flush=True)
        readable, _, _ = select.select([self._python.stdout], [], [], COMMAND_S)
        assert readable, f"{where}: still runs after {COMMAND_S:g} s"
        fault = json.loads(self._python.stdout.readline() or '"Python has ended"')
        assert not fault, f"{where}: {fault}"

    def close(self) -> None:
        if self._python is not None:
            self._python.communicate()
        for started in reversed(self._endless):
            started.end()
        for sim in self._started:
            sim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _script(self, text: str) -> str:
        return f'[ ! -e "{self._state}" ] || . "{self._state}"\n{text}'

    def _see_that_they_are_there(self, text: str, *, starts_router: bool = False) -> None:
        named = {(host, int(port)) for host, port in _ADDRESS.findall(text)}
        own = {int(port) for port in _PORT.findall(text)}
        for host, port in sorted(named):
            here = self.port(host, port)
            if port != _ROUTER[1] and port not in own and not _listens(here):
                self._started.append(SimProcess(port=here, speed=100))
                self._started[-1].start()
        if starts_router:
            if self._router is not None:
                self._router.end()
        elif "30080" in text or re.search(r"sglang-d-router (?!bench|demo|sim|completion|-)\w", text):
            self._start_router()

    def _start_router(self) -> None:
        if self._router is not None and self._router.runs():
            return
        fleet = [SimProcess(speed=100), SimProcess(speed=100), SimProcess(model="wan", speed=100)]
        self._started += fleet
        with ThreadPoolExecutor() as pool:
            list(pool.map(SimProcess.start, fleet))
        urls = " ".join(sim.url for sim in fleet)
        self._router = _Endless(f"exec sglang-d-router --worker-urls {urls}", self.folder, self.environ)
        self._endless.append(self._router)
        self._router.until_ready()
        self._await_workers()

    def _await_workers(self) -> None:
        """Wait, as a reader's slow hands do, until the router has had an answer of each worker."""
        port = self.port(*_ROUTER)
        eventually(
            lambda: [worker["status"] for worker in ask(port, request(b"GET", b"/workers")).json().get("workers", ())],
            lambda statuses: "joining" not in statuses,
        )


class _Endless:
    """A command that goes on until Ctrl-C."""

    def __init__(self, script: str, folder: Path, environ: Mapping[str, str]) -> None:
        self._said = folder.parent / f"endless-{os.urandom(4).hex()}"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                ["bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=folder,
                env=dict(environ),
                start_new_session=True,
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def until_ready(self) -> str:
        """Wait until it says so; give all that it has said."""
        said = eventually(
            self._said.read_text, lambda said: _READY.search(said) is not None or not self.runs(), within_s=COMMAND_S
        )
        assert _READY.search(said), f"it ended: {said}"
        return said

    def end(self) -> None:
        """Press Ctrl-C."""
        if self.runs():
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)
            raise
        assert "Traceback" not in self._said.read_text(), self._said.read_text()


def endless(command: Command) -> str:
    """Say what goes on for ever: "router" or "worker"; nothing when the command ends by itself."""
    words = command.words
    if words[:1] == ["sglang-d-router"] and not {"--help", "--version"} & set(words):
        if len(words) == 1 or words[1].startswith("-") or words[1] == "serve":
            return "router"
        return "worker" if words[1] == "sim" else ""
    return "worker" if words[:2] == ["sglang", "serve"] else ""


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def same(printed: str, shown: str) -> bool:
    """Tell whether this is what the page prints: `...` is anything; blanks, numbers and addresses do not matter."""
    pattern = ".*".join(re.escape(_normal(part)) for part in printed.split("..."))
    return re.search(pattern, _normal(shown), re.DOTALL) is not None


def _normal(text: str) -> str:
    text = re.sub(r"https?://[^\s\"',/]+", "ADDRESS", text)
    text = re.sub(r"(?<![A-Za-z])(?=[a-f]*\d)[0-9a-f.]+", "0", text)
    return re.sub(r"\s+", "", text)
