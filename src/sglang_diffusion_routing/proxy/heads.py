"""Write the request's head as a worker, or the control app, is to see it."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import count

from sglang_diffusion_routing.core.weights import Loaded, shown_version
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import LoopDetected
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead

_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class HeadWriter:
    """Adds what a proxy owes (RFC 9110 §7.6.3, RFC 7239's older X-Forwarded-*, W3C trace context).

    pseudonym: this router's name in `Via`, different for each process so that routers may be chained.
    """

    def __init__(self) -> None:
        run = os.urandom(8)
        self.pseudonym = b"sgld-router-" + run[:4].hex().encode()
        self._via = b"1.1 " + self.pseudonym
        self._run = run.hex().encode()
        self._sequence = count(int.from_bytes(os.urandom(6), "big"))

    def check_loop(self, head: RequestHead) -> None:
        """Raise `LoopDetected` when the request has passed this process before."""
        for via in head.via:
            if any(hop.split()[1:2] == [self.pseudonym] for hop in via.split(b",")):
                raise LoopDetected("the request has passed this router before; a worker URL points back to it")

    def ids(self, head: RequestHead) -> tuple[bytes, bytes]:
        """Give the ids of a request, and of a trace that begins here.

        The first is the client's X-Request-Id. Where it gives none, both are the same: 32 hex digits, fresh.
        """
        fresh = b"%b%016x" % (self._run, next(self._sequence))
        return head.request_id or fresh, fresh

    def for_worker(
        self,
        downstream: DownstreamConnection,
        head: RequestHead,
        worker_id: WorkerId,
        target: bytes,
        request_id: bytes,
        trace_id: bytes,
        *,
        may_upgrade: bool = False,
    ) -> bytes:
        """Give the head with its empty line. target: path and query.

        may_upgrade: ask for the other protocol that the client asks for.
        """
        forward_lines = downstream.forward_lines
        if forward_lines is None or head.forwarded_for:
            forward_lines = self._forwarded(downstream, head)
        forwarded_host = head.host
        if downstream.trusted and head.forwarded_host is not None:
            forwarded_host = head.forwarded_host
        # The control app, which has no authority, sees the one by which the client came.
        own = authority(worker_id)
        host = own or head.host or b"router"
        via = b"1.0 " + self.pseudonym if head.http_10 else self._via
        if head.via:
            via = b", ".join([*head.via, via])
        made = b"" if head.request_id is not None else b"X-Request-Id: %b\r\n" % request_id
        if head.traceparent is None and own:
            # It joins what the workers of all attempts record, if they do. Flags 01: they would take 00 for a decision
            # to record nothing (OpenTelemetry's parent-based sampling, which SGLang 0.5.23 has).
            made = b"%btraceparent: 00-%b-%016x-01\r\n" % (made, trace_id, next(self._sequence))
        if may_upgrade and head.upgrade is not None:
            made = b"%bConnection: Upgrade\r\nUpgrade: %b\r\n" % (made, head.upgrade)
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%bX-Forwarded-Host: %b\r\nVia: %b\r\n\r\n" % (
            head.method,
            target,
            host,
            head.block,
            made,
            forward_lines,
            forwarded_host,
            via,
        )

    def _forwarded(self, downstream: DownstreamConnection, head: RequestHead) -> bytes:
        """Give X-Forwarded-For and -Proto; a client's own count only when the peer is trusted."""
        peer = downstream.peer[0].encode()
        scheme = b"https" if downstream.secure else b"http"
        if not downstream.trusted:
            lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (peer, scheme)
            downstream.forward_lines = lines
            return lines
        proto = head.forwarded_proto or scheme
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (b", ".join([*head.forwarded_for, peer]), proto)


@lru_cache(maxsize=4096)
def authority(worker_id: WorkerId) -> bytes:
    """Give a worker's Host field: its id is "scheme://authority"."""
    return worker_id.encode().partition(b"://")[2]


@lru_cache(maxsize=4096)
def worker_line(worker_id: WorkerId) -> bytes:
    """Give the reply line that names the worker."""
    return b"x-sglang-router-worker: %b\r\n" % worker_id.encode()


def request_id_line(reply: ReplyHead, request_id: bytes) -> bytes:
    """Give the reply line that names the request; "" for a reply that does so itself."""
    return b"" if reply.has_request_id else b"x-request-id: %b\r\n" % request_id


@lru_cache(maxsize=256)
def version_field(loaded: Loaded) -> bytes:
    """Write a worker's weight version as a field value: what no header can carry becomes a question mark."""
    version = shown_version(loaded)
    if version is None:
        return b"unknown"
    return _UNFIT.sub(b"?", version.encode("latin-1", "replace"))


def with_relative_locations(lines: list[bytes], worker_id: WorkerId) -> bytes:
    """Join header lines, with a `Location` that names the worker made relative: the client comes back to the router."""
    origin = worker_id.encode()
    return b"".join([_relative(line, origin) for line in lines])


def _relative(line: bytes, origin: bytes) -> bytes:
    name, _, value = line.partition(b":")
    if name.lower() not in {b"location", b"content-location"}:
        return line
    target = value.strip()
    size = len(origin)
    if target[:size].lower() != origin or target[size : size + 1] not in {b"", b"/", b"?", b"#"}:
        return line
    path = target[size:]
    if path[:2] in {b"//", b"/\\"}:
        # By itself it would name another host (RFC 3986 §4.2; browsers read a backslash as a slash).
        return line
    return b"%b: %b\r\n" % (name, path if path[:1] == b"/" else b"/" + path)
