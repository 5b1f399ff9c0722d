"""`pause`, `continue`, `abort`: what waits in the router."""

from __future__ import annotations

import argparse
from typing import Any

from sglang_diffusion_routing.cli.remote.screen import Screen
from sglang_diffusion_routing.client import Client


def add_pause(parser: argparse.ArgumentParser) -> None:
    """Take for how long."""
    parser.add_argument("--for", type=float, dest="for_s", metavar="S", help="go on by itself after so many seconds")


def pause(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Hold the queue; what runs goes on."""
    return _show(client.pause(chosen.for_s), screen)


def add_continue(_parser: argparse.ArgumentParser) -> None:
    """Take nothing more."""


def resume(client: Client, _chosen: argparse.Namespace, screen: Screen) -> int:
    """Release the queue."""
    return _show(client.resume(), screen)


def add_abort(parser: argparse.ArgumentParser) -> None:
    """Take what to drop."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="everything that waits")
    which.add_argument("--group", metavar="NAME", help="the requests of an x-sglang-router-group")
    which.add_argument("--request-id", metavar="ID", help="the request with this X-Request-Id")


def abort(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Drop what waits; its clients get 499."""
    dropped = client.abort(group=chosen.group, request_id=chosen.request_id)
    if screen.as_json:
        screen.document({"aborted": dropped})
    else:
        screen.line(f"{dropped} dropped")
    return 0


def _show(reply: dict[str, Any], screen: Screen) -> int:
    if screen.as_json:
        screen.document(reply)
    else:
        screen.line(f"{reply['status']}, {reply['queued']} waiting")
    return 0
