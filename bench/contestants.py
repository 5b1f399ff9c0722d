"""The routers that are compared, each configured for the same job and started on a port of its own."""

import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import Child, Failed, free_port, listens

INIT = Path(__file__).resolve().parents[1] / "src" / "sglang_diffusion_routing" / "__init__.py"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LISTENING = re.compile(r"listening on http://\S+:([0-9]+)")
OURS = "this router"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A running router; `name` tells its ways of running apart, `family` does not."""

    name: str
    family: str
    version: str
    port: int
    process: Child

    def stop(self) -> None:
        self.process.stop()


def router(folder: Path, workers: Sequence[str], *flags: str, name: str = OURS) -> Contestant:
    """This project's router, without a cap per worker: nginx has no queue either."""
    command = [sys.executable, "-m", "sglang_diffusion_routing", "--host", "127.0.0.1", "--port", "0"]
    command += ["--max-concurrency-per-worker", "0", *flags]
    log = folder / f"{name.replace(' ', '-')}.log"
    process = Child([*command, "--worker-urls", *(f"http://{worker}" for worker in workers)], log)
    process.wait_until(lambda: LISTENING.search(log.read_text(errors="replace")) is not None)
    match = LISTENING.search(log.read_text(errors="replace"))
    assert match is not None
    return Contestant(name, OURS, _router_version(), int(match[1]), process)


LARGE_BUFFERS = "nginx, large buffers"
BUFFERING = {
    "nginx": "proxy_buffering on;",
    "nginx, proxy_buffering off": "proxy_buffering off;",
    LARGE_BUFFERS: "proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_busy_buffers_size 512k; "
    "proxy_max_temp_file_size 0;",
}
"""How nginx may hold replies: as it comes, not at all, or in buffers of the size that this router reads with."""


def nginx(folder: Path, workers: Sequence[str], name: str = "nginx") -> Contestant:
    """One worker process, upstream connections kept alive, replies held as `BUFFERING` says under `name`."""
    port = free_port()
    here = folder / f"nginx-{port}"
    here.mkdir()
    config = here / "nginx.conf"
    upstreams = "\n".join(f"    server {worker};" for worker in workers)
    # Started by root, its worker would be nobody, who may not write to the scratch folder.
    user = "user root; " if os.geteuid() == 0 else ""
    config.write_text(f"""
{user}daemon off; worker_processes 1; pid {here}/pid; error_log {here}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 1000000000;
  client_body_temp_path {here}/1; proxy_temp_path {here}/2; fastcgi_temp_path {here}/3; uwsgi_temp_path {here}/4;
  scgi_temp_path {here}/5;
  upstream workers {{
{upstreams}
    keepalive 64; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; {BUFFERING[name]}
    }}
  }}
}}
""")
    program = _program("nginx")
    process = Child([program, "-c", str(config), "-p", str(here)], folder / f"nginx-{port}.log")
    process.wait_until(lambda: listens(port))
    return Contestant(name, "nginx", _output([program, "-v"]).rpartition("/")[2], port, process)


def haproxy(folder: Path, workers: Sequence[str]) -> Contestant:
    """One thread, connections kept alive both ways."""
    port = free_port()
    config = folder / f"haproxy-{port}.cfg"
    servers = "\n".join(f"  server w{number} {worker}" for number, worker in enumerate(workers))
    config.write_text(f"""
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend in
  bind 127.0.0.1:{port}
  default_backend workers
backend workers
  balance leastconn
{servers}
""")
    program = _program("haproxy")
    process = Child([program, "-db", "-f", str(config)], folder / f"haproxy-{port}.log")
    process.wait_until(lambda: listens(port))
    version = re.search(r"version ([0-9.]+)", _output([program, "-v"]))
    return Contestant("HAProxy", "HAProxy", version[1] if version else "", port, process)


def smg(folder: Path, workers: Sequence[str], program: str | None, *, stripped: bool = False) -> Contestant:
    """SGLang's model gateway as an HTTP router for regular workers.

    As it comes, but for its log of every request, which none of the others writes. Stripped: also without its
    cache-aware policy, retries and watching of its workers' load.
    """
    name = "SMG, stripped" if stripped else "SMG"
    port = free_port()
    command = [find_smg(program), "launch", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    if stripped:
        command += ["--policy", "round_robin", "--disable-retries", "--disable-load-monitoring"]
    command += ["--worker-urls", *(f"http://{worker}" for worker in workers)]
    process = Child(command, folder / f"smg-{port}.log")
    # It listens before it knows its workers, and refuses work until then.
    process.wait_until(lambda: answers(port))
    version = REQUIREMENTS.read_text().rpartition("==")[2].strip()
    return Contestant(name, "SMG", version, port, process)


def answers(port: int) -> bool:
    """Tell whether a small request is served."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/generate", '{"text":"hello"}', {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def find_smg(given: str | None) -> str:
    """Give the path of `smg`, installing it into an environment of its own when there is none."""
    if given is not None:
        return given
    beside = Path(sys.executable).with_name("smg")
    own = Path(__file__).resolve().parents[1] / ".venv" / "smg"
    for candidate in (beside, own / "bin" / "smg"):
        if candidate.exists():
            return str(candidate)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(own)], check=True, capture_output=True, text=True)
        install = [str(own / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise Failed(f"SMG could not be installed: {error.stderr.strip()[-300:]}") from None
    return str(own / "bin" / "smg")


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise Failed(f"{name} is not installed: apt-get install {name}")
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def _router_version() -> str:
    match = re.search(r'__version__ = "([^"]+)"', INIT.read_text())
    return match[1] if match else ""
