"""Routers that keep their state in a file, and what they say of it."""

import json
from pathlib import Path
from typing import Any

from support.client import ask, request
from support.router import RouterProcess


def start(path: Path, *flags: str, workers: tuple[str, ...] = ()) -> RouterProcess:
    return RouterProcess(workers, "--state", str(path), "--health-check-interval", "0.2", *flags)


def call(router: RouterProcess, method: str, target: str, body: object = None) -> tuple[int, Any]:
    content = b"" if body is None else json.dumps(body).encode()
    wire = request(method.encode(), target.encode(), b"Content-Type: application/json", body=content)
    reply = ask(router.port, wire)
    return reply.status, json.loads(reply.body) if reply.body else None


def restored(router: RouterProcess) -> str:
    """Give what the router says it has restored, before it says where it listens."""
    said = router.said
    listening = next(number for number, line in enumerate(said) if "listening on" in line)
    return "\n".join(said[:listening])
