"""How a client reaches its router, and what a request is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import httpx2

from sglang_diffusion_routing.client.exchange import Answer, Send
from sglang_diffusion_routing.client.operations import DEFAULT_RETRY, Retry

DEFAULT_URL = "http://localhost:30080"
CONCURRENCY = 256
"""Requests of a batch that are under way at once: enough to fill a router's queue in front of many workers."""

RolloutRequest = str | Mapping[str, Any]
"""A prompt, or a whole request with its own fields."""


class Options(TypedDict, total=False):
    """Further ways to reach a router.

    api_key: sent with work. admin_key: sent with what looks at the fleet or changes it; without one, api_key.
    timeout_s: for each reply; None, the default, for as long as it takes, since work may wait in the router for hours.
    connect_timeout_s: 10 by default. ca_file: certificates to trust instead of the usual. retry: how long to go on.
    """

    api_key: str | None
    admin_key: str | None
    timeout_s: float | None
    connect_timeout_s: float
    ca_file: str | None
    retry: Retry


@dataclass(frozen=True, slots=True)
class Access:
    """Where the router is, and the options."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    timeout_s: float | None = None
    connect_timeout_s: float = 10.0
    ca_file: str | None = None
    retry: Retry = DEFAULT_RETRY

    def options(self) -> dict[str, Any]:
        """Give the arguments of an httpx2 client."""
        verify = {} if self.ca_file is None else {"verify": httpx2.create_ssl_context(self.ca_file)}
        return {
            "base_url": self.url,
            "timeout": httpx2.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            "limits": httpx2.Limits(max_connections=None, keepalive_expiry=4.0),
            # A router is near; what stands between us and the world is not.
            "trust_env": False,
            **verify,
        }

    def arguments(self, send: Send, *, control: bool) -> dict[str, Any]:
        """Give a request as the arguments of httpx2's `build_request`."""
        key = (self.admin_key if control else None) or self.api_key
        headers = {name: value.encode() for name, value in send.headers.items()}
        if key is not None:
            headers["authorization"] = b"Bearer " + key.encode()
        given = {
            "json": send.json,
            "params": send.params,
            "content": send.content,
            "data": send.form,
            "files": list(send.files) or None,
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        return {"method": send.method, "url": send.path, "headers": headers, **arguments}


def answer_of(reply: httpx2.Response, body: bytes) -> Answer:
    """Give a reply as an operation sees it."""
    return Answer(reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, body)


def numbered(requests: Sequence[RolloutRequest], seed: int | None, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the bodies of a batch.

    The first sample of the first prompt has `seed`; each further sample the next one, so that no two are alike. A
    request with fields of its own keeps these.

    Raises:
        ValueError: one has no seed; a worker would find out only after its work.
    """
    bodies: list[dict[str, Any]] = []
    for index, request in enumerate(requests):
        own = {"prompt": request} if isinstance(request, str) else dict(request)
        body = {**common, **own}
        if seed is not None:
            body.setdefault("seed", seed + index * int(body.get("num_outputs_per_prompt") or 1))
        if body.get("seed") is None:
            raise ValueError(f"rollout {index} has no seed")
        bodies.append(body)
    return bodies
