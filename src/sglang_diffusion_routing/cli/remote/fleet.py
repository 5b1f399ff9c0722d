"""`refit`, `sleep`, `wake`: what all workers are to do."""

from __future__ import annotations

import argparse
from typing import Any

from sglang_diffusion_routing.cli.remote.screen import Screen
from sglang_diffusion_routing.client import Client
from sglang_diffusion_routing.client.errors import succeeded

FAILED = 1


def add_refit(parser: argparse.ArgumentParser) -> None:
    """Take which checkpoint, and how."""
    parser.add_argument("path", metavar="PATH", help="checkpoint, as the workers see it")
    parser.add_argument("--weight-version", metavar="NAME", help="what to call these weights (default: counted)")
    parser.add_argument("--mode", choices=["drain", "rolling", "immediate"], default="drain")
    parser.add_argument("--target-modules", nargs="+", metavar="MODULE", help="load only these")
    _add_drain(parser)


def refit(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Load a checkpoint into the workers."""
    reply = client.refit(
        chosen.path,
        weight_version=chosen.weight_version,
        mode=chosen.mode,
        target_modules=chosen.target_modules,
        timeout_s=chosen.drain_timeout,
        selector=chosen.selector,
        partial_ok=True,
    )
    return _show(reply, f"on {reply.get('weight_version')}", screen)


def add_sleep(parser: argparse.ArgumentParser) -> None:
    """Take which workers."""
    _add_drain(parser)


def sleep(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Have the workers release their memory."""
    reply = client.sleep(selector=chosen.selector, timeout_s=chosen.drain_timeout, partial_ok=True)
    return _show(reply, "asleep", screen)


def add_wake(parser: argparse.ArgumentParser) -> None:
    """Take which workers."""
    _add_selector(parser)


def wake(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Have the workers take their memory back."""
    return _show(client.wake(selector=chosen.selector, partial_ok=True), "awake", screen)


def _add_drain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drain-timeout", type=float, metavar="S", help="for running work to end (default 1800)")
    _add_selector(parser)


def _add_selector(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selector", metavar="WHICH", help="URLs with commas between them, or a label key=value")


def _show(reply: dict[str, Any], done: str, screen: Screen) -> int:
    """Show what became of each worker."""
    if screen.as_json:
        screen.document(reply)
        return 0 if reply["success"] else FAILED
    rows = [(row["worker_url"], _outcome(row, done)) for row in reply["results"]]
    rows += [(row["worker_url"], f"skipped: {row['reason']}") for row in reply["skipped"]]
    screen.table(["worker", "outcome"], rows)
    if reply.get("message"):
        screen.line(reply["message"])
    return 0 if reply["success"] else FAILED


def _outcome(row: dict[str, Any], done: str) -> str:
    if succeeded(row):
        return done
    body = row["body"]
    said = body if isinstance(body, dict) else {}
    return f"{row['status_code']}: {said.get('message') or said.get('error') or body}"
