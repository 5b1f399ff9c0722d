"""`weights` and `jobs`: what the fleet is on, and what it makes."""

from __future__ import annotations

import argparse

from sglang_diffusion_routing.cli.remote.screen import Screen
from sglang_diffusion_routing.client import Client


def add_weights(_parser: argparse.ArgumentParser) -> None:
    """Take nothing more."""


def weights(client: Client, _chosen: argparse.Namespace, screen: Screen) -> int:
    """Show what each group of workers wants, and each worker has."""
    reply = client.weights()
    if screen.as_json:
        screen.document(reply)
        return 0
    for name, group in reply["groups"].items():
        target = group["target"] or "no target yet"
        notes = [note for note in (group["unproven"] and "not proven since the restart", group["obstacle"]) if note]
        screen.line(f"{name}: {target}" + (f" ({'; '.join(notes)})" if notes else ""), style="bold")
        members = group["workers"]
        rows = [(row["worker_url"], row["weight_version"] or "?", row["status"], row["reason"]) for row in members]
        screen.table(["worker", "weights", "status", "why"], rows)
    return 0


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Take of which kind, and how many."""
    parser.add_argument("--kind", choices=["videos", "meshes"], default="videos")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="the newest, at most 100 (default 20)")


def jobs(client: Client, chosen: argparse.Namespace, screen: Screen) -> int:
    """Show the jobs of all workers, the newest first."""
    reply = (client.videos if chosen.kind == "videos" else client.meshes).list(limit=str(chosen.limit))
    if screen.as_json:
        screen.document(reply)
        return 0
    rows = [(job.get("id"), job.get("status"), job.get("progress"), job.get("model")) for job in reply["data"]]
    screen.table(["job", "status", "progress", "model"], rows)
    return 0
