"""`doctor`: what is wrong with a router, its workers and its machine, and what to do about it."""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from math import inf
from typing import Any
from urllib.parse import urlsplit

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.cli.remote.options import cause, key_wanted
from sglang_diffusion_routing.cli.remote.screen import Screen
from sglang_diffusion_routing.client import Client, ClientError, Refused

CLOCK_S = 2.0
"""Clocks that are farther apart make logs and time stamps hard to put beside each other."""
SPARE_FILES = 512
FREE_BYTES = 100 * 2**20
"""Less room than this for the state file's journal is close to none."""
_LOOKS = 32
_CONNECT_S = 2.0
_MARGIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """level: ok, warning or fault. advice: what to do, empty when nothing."""

    level: str
    about: str
    says: str
    advice: str = ""


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Take whether to wait for the workers' idle connections."""
    parser.add_argument(
        "--skip-keep-alive", action="store_true", help="do not wait to see how long workers keep idle connections"
    )


def doctor(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Look at everything; 0 when nothing is at fault, 1 when something is."""
    findings: list[Finding] = []
    for finding in _look(client, keep_alive=not chosen.skip_keep_alive):
        findings.append(finding)
        if not screen.as_json:
            _show(finding, screen)
    if screen.as_json:
        screen.document({"findings": [asdict(finding) for finding in findings]})
    faults = sum(finding.level == "fault" for finding in findings)
    if not screen.as_json:
        warnings = sum(finding.level == "warning" for finding in findings)
        screen.line(f"{_count(faults, 'fault')}, {_count(warnings, 'warning')}")
    return 1 if faults else 0


def _show(finding: Finding, screen: Screen) -> None:
    mark, style = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "red")}[finding.level]
    screen.line(f"{mark} {finding.about}: {finding.says}", style)
    if finding.advice:
        screen.line(f"    {finding.advice}")


def _look(client: Client, *, keep_alive: bool) -> Iterator[Finding]:
    began_s = time.time()
    try:
        info = client.get("/router_info")
    except Refused as error:
        if wanted := key_wanted(error):
            yield Finding("fault", "router", f"{client.url} wants a key: {error}", wanted)
            return
        yield Finding(
            "fault", "router", f"{client.url} answers, but not as a router: {error}", "is that the address of a worker?"
        )
        return
    except ClientError as error:
        no_answer = f"no answer from {client.url}: {cause(error)}"
        yield Finding("fault", "router", no_answer, "is it running, and is --url right?")
        return
    if "open_files" not in info:
        yield Finding("fault", "router", f"{client.url} is something else", "is --url right?")
        return
    yield Finding("ok", "router", f"{client.url} answers, up for {info['uptime_s']:.0f} s")
    yield version(info)
    yield clock(info, (began_s + time.time()) / 2)
    yield from limits(info)
    yield state(info)
    listed = client.get("/workers")
    yield from of_workers(listed["workers"])
    yield from of_weights(client.weights())
    if keep_alive and listed["workers"]:
        yield from idle_connections([worker["url"] for worker in listed["workers"]], float(info["idle_reuse_s"]))


def version(info: Mapping[str, Any]) -> Finding:
    """Compare the router's version with this program's."""
    if info["version"] == __version__:
        return Finding("ok", "version", f"{__version__}, here and there")
    says = f"the router is {info['version']}, this program {__version__}"
    return Finding("warning", "version", says, "use the same on both sides")


def clock(info: Mapping[str, Any], now_s: float) -> Finding:
    """Compare the router's clock with this machine's."""
    off_s = datetime.fromisoformat(info["now"]).timestamp() - now_s
    if abs(off_s) <= CLOCK_S:
        return Finding("ok", "clock", "as here")
    return Finding("warning", "clock", f"{off_s:+.0f} s from this machine's", "let both keep time by NTP")


def limits(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at open files and connections."""
    used, limit, clients = info["open_files"], info["open_files_limit"], info["max_client_connections"]
    wanted = 2 * clients + SPARE_FILES
    if limit is not None and limit < wanted:
        yield Finding(
            "warning",
            "open files",
            f"the limit is {limit}; {clients} clients may need {wanted}",
            f"raise it: ulimit -n {wanted}, or LimitNOFILE= in its unit; or lower --max-client-connections",
        )
    elif limit is not None and used > 0.8 * limit:
        yield Finding("warning", "open files", f"{used} of {limit} are in use", "raise the limit: ulimit -n")
    else:
        yield Finding("ok", "open files", f"{used} of {'any number' if limit is None else limit}")
    open_now = info["client_connections"]
    if open_now > 0.8 * clients:
        yield Finding(
            "warning", "clients", f"{open_now} of {clients} connections are open", "raise --max-client-connections"
        )


def state(info: Mapping[str, Any]) -> Finding:
    """Look at what outlives the router."""
    kept = info["state"]
    if kept is None:
        return Finding(
            "warning",
            "state",
            "nothing is kept: a restart forgets workers, weights and jobs",
            "name a file on a local disk with --state",
        )
    if kept["write_failures"] and kept["unsaved"]:
        says = f"{kept['path']} cannot be written; {kept['unsaved']} changes wait"
        return Finding("fault", "state", says, "free the disk, or see to its permissions; the log has the reason")
    if kept["free_bytes"] < FREE_BYTES:
        says = f"{kept['free_bytes'] / 2**20:.0f} MiB are left where {kept['path']} is"
        return Finding("warning", "state", says, "free some room")
    return Finding("ok", "state", f"{kept['path']}, {kept['size_bytes'] / 1024:.0f} KiB")


def of_workers(workers: list[dict[str, Any]]) -> Iterator[Finding]:
    """Say of each worker that gets no work why."""
    if not workers:
        yield Finding("warning", "workers", "there are none", "register some: sglang-d-router workers add URL")
        return
    well = [worker for worker in workers if worker["status"] == "active"]
    if well:
        yield Finding("ok", "workers", f"{len(well)} of {len(workers)} take work")
    for worker in workers:
        status = worker["status"]
        if status in _WHAT_TO_DO:
            level, advice = _WHAT_TO_DO[status]
            yield Finding(level, worker["url"], f"{status}: {worker['reason']}", advice.format(url=worker["url"]))


_WHAT_TO_DO = {
    "quarantined": (
        "fault",
        "look at its log; it is back when a probe succeeds, or after: workers recover {url}",
    ),
    "joining": ("fault", "it has never answered: is {url} right, and reachable from the router's machine?"),
    "suspect": ("fault", "nobody knows its weights: refit it, or restart it"),
    "stale": ("fault", "refit the fleet: sglang-d-router refit PATH"),
    "sleeping": ("warning", "wake it: sglang-d-router wake"),
    "draining": ("warning", "if that is not on purpose: sglang-d-router workers undrain {url}"),
}


def of_weights(reply: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at what each weight group wants."""
    for name, group in reply["groups"].items():
        about = f"weights of {name}"
        if group["unproven"]:
            yield Finding(
                "fault",
                about,
                f"{group['target']!r} is remembered from before a restart, and no worker has been seen to have it",
                "refit, or say what they have: POST /weights/reported",
            )
        elif group["obstacle"]:
            yield Finding("warning", about, f"a worker that restarts stays out: {group['obstacle']}", "")
        else:
            yield Finding("ok", about, f"{group['target'] or 'as the workers started'}")


def idle_connections(
    urls: list[str], reuse_s: float, wait: Callable[[str, float], float | None] | None = None
) -> Iterator[Finding]:
    """See whether workers keep an idle connection for as long as the router reuses it.

    Workers behind networks that this machine is not part of are left out: only the router has to reach them.
    """
    with ThreadPoolExecutor(_LOOKS) as looks:
        lasted = list(looks.map(lambda url: (wait or lasts_s)(url, reuse_s + _MARGIN_S), urls[:_LOOKS]))
    known = {url: seconds for url, seconds in zip(urls, lasted, strict=False) if seconds is not None}
    early = {url: seconds for url, seconds in known.items() if seconds < reuse_s}
    for url, seconds in early.items():
        yield Finding(
            "warning",
            url,
            f"closes idle connections after {seconds:.1f} s, and the router reuses them for {reuse_s:g} s",
            f"--idle-reuse {max(seconds - 1.0, 0.0):.1f}, or a longer keep-alive of the worker",
        )
    if known and not early:
        yield Finding(
            "ok", "keep-alive", f"{len(known)} workers keep idle connections for the {reuse_s:g} s of their reuse"
        )


def lasts_s(url: str, within_s: float) -> float | None:
    """Give the seconds for which a worker keeps a connection that has had one reply, infinity when longer than asked.

    None: it cannot be reached from here, or it speaks TLS.
    """
    where = urlsplit(url)
    if where.scheme != "http" or where.hostname is None:
        return None
    try:
        with socket.create_connection((where.hostname, where.port or 80), _CONNECT_S) as connection:
            connection.sendall(f"GET /liveness HTTP/1.1\r\nhost: {where.netloc}\r\n\r\n".encode())
            connection.recv(65536)
            return _until_closed_s(connection, within_s)
    except OSError:
        return None


def _until_closed_s(connection: socket.socket, within_s: float) -> float:
    began_s = time.monotonic()
    try:
        while (left_s := began_s + within_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not connection.recv(65536):
                return time.monotonic() - began_s
    except TimeoutError:
        pass
    return inf


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
