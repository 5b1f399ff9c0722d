"""Requests as data, and who sends them to one worker."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from support.deadlines import eventually

JSON = "application/json"
WORK_S = 120.0  # of one request or job, on a machine that others use too
UNDER_WAY = {"queued", "in_progress"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A request to a worker.

    In its target and body stand `{image}` and `{video}` for the id of the last one made, `{earlier}` for the video
    before it, `{model}` for the model's path and `{path}` for another checkpoint's.

    Attributes:
        form: sent as multipart instead of the body.
        patient: asked again until the job that it shows has ended.
    """

    name: str
    method: str
    target: str
    body: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, tuple[str | None, bytes]] | None = None
    patient: bool = False


def get(name: str, target: str, method: str = "GET", **headers: str) -> Probe:
    return Probe(name, method, target, headers=headers)


def post(name: str, target: str, document: Any = None, /, **fields: Any) -> Probe:
    """A POST with a JSON body: `document`, or else the fields."""
    return Probe(name, "POST", target, json.dumps(fields if document is None else document).encode(), JSON)


def raw(name: str, target: str, body: bytes, content_type: str | None = JSON) -> Probe:
    return Probe(name, "POST", target, body, content_type)


def form(name: str, target: str, **parts: tuple[str | None, bytes]) -> Probe:
    return Probe(name, "POST", target, form=parts)


def ended(name: str, target: str) -> Probe:
    """A GET of a job, repeated until it has ended."""
    return Probe(name, "GET", target, patient=True)


class Asker:
    """Asks one worker probes in their order, filling in what only this worker knows."""

    def __init__(self, url: str, *, model: str, checkpoint: str) -> None:
        self._url = url
        self._known = {"model": model, "path": checkpoint, "image": "none", "video": "none", "earlier": "none"}

    def ask(self, probe: Probe) -> httpx2.Response:
        """Send it on a connection of its own: a worker cuts those on which it failed."""
        reply = self._send(probe)
        if probe.patient:
            reply = eventually(
                lambda: self._send(probe),
                lambda now: now.json()["status"] not in UNDER_WAY,
                within_s=WORK_S,
                every_s=0.1,
            )
        if probe.method == "POST" and reply.status_code == 200:
            self._learn(probe.target, reply)
        return reply

    def _learn(self, target: str, reply: httpx2.Response) -> None:
        if target == "/v1/images/generations":
            self._known["image"] = reply.json()["id"]
        if target == "/v1/videos":
            self._known |= {"earlier": self._known["video"], "video": reply.json()["id"]}

    def _send(self, probe: Probe) -> httpx2.Response:
        headers = dict(probe.headers)
        if probe.content_type is not None:
            headers["Content-Type"] = probe.content_type
        return httpx2.request(
            probe.method,
            self._url + self._filled(probe.target, lambda value: value),
            content=None if probe.body is None else self._filled(probe.body.decode(), _inside_json).encode(),
            files=None if probe.form is None else dict(probe.form),
            headers=headers,
            timeout=WORK_S,
        )

    def _filled(self, text: str, written: Callable[[str], str]) -> str:
        for name, value in self._known.items():
            text = text.replace("{" + name + "}", written(value))
        return text


def _inside_json(value: str) -> str:
    return json.dumps(value)[1:-1]
