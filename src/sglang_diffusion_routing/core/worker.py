"""A worker as the router knows it: its address, its identity, the record that only the pool writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from .state import Health, Intent, WorkerState

WorkerId = NewType("WorkerId", str)
"""The canonical worker URL, as `str(WorkerUrl)`."""


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A checked worker address: scheme, host and port, nothing else.

    scheme: "http" or "https". host: lower-case name, IPv4, or canonical IPv6 without brackets. port: 1-65535.
    """

    scheme: str
    host: str
    port: int

    # parse(text) -> WorkerUrl (raises InvalidWorkerUrl), __str__ (default ports dropped, IPv6 in brackets),
    # authority -> "host:port" or "host" as the Host header wants it, display_id -> "host:port".


@dataclass(frozen=True, slots=True)
class Capability:
    """What a worker makes: `supported_task_types` (and `task_type`) of its GET /v1/models, and the ids it serves.

    task_types: None while unknown.
    """

    task_types: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class Worker:
    """The record of one worker. Only `Pool` assigns to its fields."""

    worker_id: WorkerId
    url: WorkerUrl
    incarnation: int
    registered_s: float
    state: WorkerState = WorkerState.ACTIVE
    health: Health = Health.UNKNOWN
    intent: Intent | None = None
    capability: Capability = field(default_factory=Capability)
    labels: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None
