"""`workers ...`: who works, and who is to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sglang_diffusion_routing.cli.parser import ActionParser
from sglang_diffusion_routing.cli.remote.options import add_common
from sglang_diffusion_routing.cli.remote.screen import Screen
from sglang_diffusion_routing.client import Client

COLUMNS = ("worker", "status", "running", "jobs", "weights", "speed", "why")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Take what to do, and with which of them."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=ActionParser)
    actions.add_parser("list", help="show them")
    added = actions.add_parser("add", help="register some")
    added.add_argument("worker", nargs="+", metavar="URL")
    added.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label for all of them")
    removed = actions.add_parser("remove", help="remove one when its work has ended")
    removed.add_argument("worker", metavar="URL")
    removed.add_argument("--force", action="store_true", help="at once; its work goes to others or fails")
    for name, (_, _, meaning) in _CHANGES.items():
        actions.add_parser(name, help=meaning).add_argument("worker", metavar="URL")
    for action in actions.choices.values():
        add_common(action, again=True)


def workers(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Do what the action says."""
    if chosen.action == "list":
        return _list(client, screen)
    if chosen.action == "add":
        return _add(client, chosen, screen)
    path = f"/workers/{quote(chosen.worker, safe='')}"
    if chosen.action == "remove":
        reply = client.call("DELETE", path, params={"force": "true"} if chosen.force else None)
        return _said(reply, chosen.worker, "drains first" if reply["status"] == "draining" else "removed", screen)
    method, change, _ = _CHANGES[chosen.action]
    reply = client.call(method, path + change) if isinstance(change, str) else client.call(method, path, change)
    worker = reply.get("worker") or reply
    reason = f" ({worker['reason']})" if worker.get("reason") else ""
    return _said(reply, chosen.worker, f"{worker['status']}{reason}", screen)


_CHANGES: Mapping[str, tuple[str, str | Mapping[str, Any], str]] = {
    "drain": ("PUT", {"state": "drained"}, "give one no new work"),
    "undrain": ("PUT", {"state": "active"}, "give one work again"),
    "quarantine": ("PUT", {"is_dead": True}, "keep one out until it is recovered"),
    "recover": ("PUT", {"is_dead": False}, "end a quarantine"),
    "restart": ("POST", "/restart", "end one that the router has started, and start it again"),
    "stop": ("POST", "/stop", "end one that the router has started"),
    "start": ("POST", "/start", "start one that was stopped, or kept crashing"),
}
"""What each action sends: the method, and a body or the rest of the path."""


def _list(client: Client, screen: Screen) -> int:
    listed = client.get("/workers")
    if screen.as_json:
        screen.document(listed)
        return 0
    screen.table(COLUMNS, [row(worker) for worker in listed["workers"]])
    queue = listed["queue"]
    oldest = "" if queue["oldest_seconds"] is None else f", the oldest for {queue['oldest_seconds']:.0f} s"
    screen.line(f"{queue['requests']} waiting{oldest}")
    return 0


def row(worker: Mapping[str, Any]) -> tuple[object, ...]:
    """Give what `COLUMNS` name of a worker."""
    return (
        worker["url"],
        worker["status"],
        worker["active_requests"],
        worker["jobs"],
        worker["weight_version"] or "?",
        worker["speed"],
        worker["reason"],
    )


def _add(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    labels = dict(pair.partition("=")[::2] for pair in chosen.label)
    body: dict[str, Any] = {"urls": chosen.worker} | ({"labels": labels} if labels else {})
    reply = client.call("POST", "/workers", body)
    if screen.as_json:
        screen.document(reply)
        return 0
    screen.table(COLUMNS, [row(worker) for worker in reply["workers"]])
    return 0


def _said(reply: Any, worker: str, outcome: str, screen: Screen) -> int:
    if screen.as_json:
        screen.document(reply)
    else:
        screen.line(f"{worker}: {outcome}")
    return 0
