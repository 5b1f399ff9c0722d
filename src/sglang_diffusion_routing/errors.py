"""Every error of the router: what happened, whose fault it is, and how it looks on the wire.

`RouterError.to_wire` is the only writer of error bodies: `{"error": sentence, "code": stable_code, ...facts}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

Scalar = str | int | float | bool | None
Fact = Scalar | Mapping[str, Scalar] | list[str]


class Source(StrEnum):
    """Who caused an error."""

    CLIENT = "client"
    ROUTER = "router"
    WORKER = "worker"


class RouterError(Exception):
    """Base of all errors; a subclass sets the class variables and passes one sentence and its facts.

    Attributes:
        code: stable identifier that clients may match on.
        http_status: status of the reply.
        source: who caused it.
        retryable: whether the same request may succeed later.
        retry_after_s: seconds for the `Retry-After` header, None for no header.
        headers: further reply headers, such as `Allow`.
        facts: what the sentence says, for programs.
    """

    code: ClassVar[str] = "router_error"
    http_status: ClassVar[int] = 500
    source: ClassVar[Source] = Source.ROUTER
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        **facts: Fact,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.headers = headers
        self.facts: dict[str, Fact] = facts

    def to_wire(self) -> bytes:
        """Give the JSON body of the reply, UTF-8."""
        body: dict[str, Fact] = {"error": self.message, "code": self.code}
        body.update(self.facts)
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        # JSON may name half of a surrogate pair, which UTF-8 cannot hold; its backslash form is JSON again.
        return text.encode(errors="backslashreplace")


class BadRequest(RouterError):
    """The request is not valid HTTP, or not valid for the router; the connection closes after the reply."""

    code = "bad_request"
    http_status = 400
    source = Source.CLIENT


class BadHost(BadRequest):
    """The request has no `Host`, several, or one that is no host (RFC 9112 §3.2)."""

    code = "bad_host"


class BadFraming(BadRequest):
    """Lengths, codings or chunks that a proxy must not guess about (RFC 9112 §6)."""

    code = "bad_framing"


class BadTarget(BadRequest):
    """The request's target is no path, or has an escape that no path may have."""

    code = "bad_target"


class BadHeader(BadRequest):
    """A header field's name or value has a character that it may not have (RFC 9110 §5)."""

    code = "bad_header"


class UnknownCoding(BadFraming):
    """The body comes in a transfer coding other than exactly `chunked`."""

    code = "unknown_transfer_coding"
    http_status = 501


class UnknownMethod(BadRequest):
    """The request's method is none that the parser knows."""

    code = "unknown_method"
    http_status = 501


class MethodNotAllowed(RouterError):
    """The method is refused on this route, or everywhere; `Allow` lists those that are not."""

    code = "method_not_allowed"
    http_status = 405
    source = Source.CLIENT

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"method {method} is not allowed here", headers=(("Allow", allow),), method=method)


class HeadTimeout(BadRequest):
    """The request's head did not come whole in time."""

    code = "head_timeout"
    http_status = 408
    retryable = True


class BodyTimeout(BadRequest):
    """The request's body fell silent before its end."""

    code = "body_timeout"
    http_status = 408
    retryable = True


class UriTooLong(BadRequest):
    """The request's target is longer than the limit."""

    code = "uri_too_long"
    http_status = 414


class HeadTooLarge(BadRequest):
    """The request's head is longer than the limit."""

    code = "head_too_large"
    http_status = 431


class UnknownExpectation(BadRequest):
    """The request expects something other than `100-continue` (RFC 9110 §10.1.1)."""

    code = "unknown_expectation"
    http_status = 417


class LoopDetected(RouterError):
    """The request has passed this router before: its own name is in `Via` (RFC 9110 §7.6.3)."""

    code = "loop_detected"
    http_status = 508


class InvalidField(RouterError):
    """A control body or parameter is wrong; `field` names it."""

    code = "invalid_field"
    http_status = 400
    source = Source.CLIENT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, field=field)


class InvalidWorkerUrl(RouterError):
    """A worker's URL is malformed, or names an address that may be no worker."""

    code = "invalid_worker_url"
    http_status = 400
    source = Source.CLIENT

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"worker URL {url!r} {why}", url=url)


class UnknownWorker(RouterError):
    """No worker of this id is registered."""

    code = "unknown_worker"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"no worker {worker_id!r} is registered", worker_id=worker_id)


class UnknownJob(RouterError):
    """No worker knows a job, or file, of this id."""

    code = "unknown_job"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no worker knows {job_id!r}", job_id=job_id)


class JobOwnerGone(RouterError):
    """The worker that made the job has been removed, and its files with it."""

    code = "job_owner_gone"
    http_status = 410

    def __init__(self, job_id: str, worker_url: str) -> None:
        super().__init__(
            f"{job_id!r} was made by {worker_url}, which has been removed", job_id=job_id, worker=worker_url
        )


class Conflict(RouterError):
    """The worker's state does not allow this; nothing was changed."""

    code = "conflict"
    http_status = 409
    source = Source.CLIENT


class FleetRouteUnknown(RouterError):
    """A state-changing worker route that the router does not know is never sent to one worker of many."""

    code = "fleet_route_unknown"
    http_status = 501
    source = Source.CLIENT

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} changes a worker's state and is not known to the router; "
            "name its workers with ?selector= (worker ids, label key=value, or all)",
            path=path,
        )


class QueueFull(RouterError):
    """As many requests, or bytes, wait for a worker as may."""

    code = "queue_full"
    http_status = 429
    retryable = True

    def __init__(self, queued: int, limit: str, retry_after_s: int, by_status: Mapping[str, int]) -> None:
        super().__init__(
            f"the queue is full ({limit})", retry_after_s=retry_after_s, queued=queued, by_status=dict(by_status)
        )


class NoRoutableWorker(RouterError):
    """No worker can take this now and none is on its way; `by_status` counts the registered ones."""

    code = "no_routable_worker"
    http_status = 503
    retryable = True

    def __init__(self, by_status: Mapping[str, int], retry_after_s: int = 1) -> None:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(by_status.items()))
        if not by_status:
            message = "No healthy workers available in the pool: none is registered"
        elif set(by_status) == {"sleeping"}:
            message = f"No healthy workers available in the pool: all {by_status['sleeping']} are asleep"
        else:
            message = f"No healthy workers available in the pool: {counts}"
        super().__init__(message, retry_after_s=retry_after_s, by_status=dict(by_status))


class NoCapableWorker(RouterError):
    """No registered worker makes this kind of output."""

    code = "no_capable_worker"
    http_status = 400
    source = Source.CLIENT

    def __init__(self, output: str, worker_id: str | None = None) -> None:
        if worker_id is None:
            super().__init__(f"No {output}-capable workers available in current worker pool.", output=output)
        else:
            super().__init__(f"{worker_id} makes no {output}", output=output, worker=worker_id)


class WorkerUnavailable(RouterError):
    """The one worker that the request may go to cannot take it, and is not on its way; `status` is its own."""

    code = "worker_unavailable"
    http_status = 503
    retryable = True

    def __init__(self, worker_id: str, status: str) -> None:
        super().__init__(
            f"{worker_id} is {status}, and the request may go to no other worker",
            retry_after_s=1,
            worker=worker_id,
            status=status,
        )


class QueueTimeout(RouterError):
    """No worker came free before the queue's deadline."""

    code = "queue_timeout"
    http_status = 503
    retryable = True

    def __init__(self, waited_s: float, by_status: Mapping[str, int], worker_id: str | None = None) -> None:
        if worker_id is None:
            message = f"no worker came free within {waited_s:g} s"
        else:
            message = f"{worker_id}, which is {', '.join(by_status)}, did not come free within {waited_s:g} s"
        super().__init__(message, retry_after_s=1, waited_s=waited_s, by_status=dict(by_status))
        if worker_id is not None:
            self.facts["worker"] = worker_id


class WeightsUnmet(RouterError):
    """No worker came to have weights as new as the request demands; `targets` has each group's."""

    code = "weights_unmet"
    http_status = 503
    retryable = True

    def __init__(
        self, wanted: str, targets: Mapping[str, str | None], waited_s: float, by_status: Mapping[str, int]
    ) -> None:
        known = ", ".join(f"{group or 'no name'}: {target}" for group, target in targets.items() if target is not None)
        super().__init__(
            f"no worker has weights as new as {wanted!r} ({known or 'there was no refit yet'})",
            retry_after_s=1,
            min_weight_version=wanted,
            targets=dict(targets),
            waited_s=waited_s,
            by_status=dict(by_status),
        )


class ShuttingDown(RouterError):
    """The router ends and takes no new work; another one, or the same one later, does."""

    code = "shutting_down"
    http_status = 503
    retryable = True

    def __init__(self) -> None:
        super().__init__("the router is shutting down", retry_after_s=5)


class OwnerUnavailable(RouterError):
    """A job's worker cannot be asked now."""

    code = "owner_unavailable"
    http_status = 503
    retryable = True

    def __init__(self, job_id: str, worker_url: str, status: str) -> None:
        super().__init__(
            f"{job_id!r} belongs to {worker_url}, which is {status}",
            retry_after_s=5,
            job_id=job_id,
            worker=worker_url,
            status=status,
        )


class ConnectFailed(RouterError):
    """No connection to the worker came about; it has got nothing of the request."""

    code = "connect_failed"
    http_status = 502
    source = Source.WORKER
    retryable = True

    def __init__(self, worker_url: str, why: str) -> None:
        super().__init__(f"cannot connect to {worker_url}: {why}", worker=worker_url, why=why)


class UpstreamDied(RouterError):
    """Workers closed their connection before any of a reply was passed on; `workers` names each in turn."""

    code = "upstream_died"
    http_status = 502
    source = Source.WORKER
    retryable = True

    def __init__(self, workers: list[str]) -> None:
        names = " and ".join(workers)
        super().__init__(f"{names} closed the connection before answering", workers=workers)


class BadUpstreamReply(RouterError):
    """A worker's reply breaks the rules of HTTP framing; passing it on would be a guess (RFC 9112 §6.3)."""

    code = "bad_upstream_reply"
    http_status = 502
    source = Source.WORKER

    def __init__(self, worker_url: str, why: str) -> None:
        super().__init__(f"the reply of {worker_url} is not valid HTTP: {why}", worker=worker_url, why=why)


class UpstreamTimeout(RouterError):
    """The worker gave no reply within `--timeout`; it may still be at work."""

    code = "upstream_timeout"
    http_status = 504
    source = Source.WORKER

    def __init__(self, worker_url: str, timeout_s: float) -> None:
        super().__init__(f"{worker_url} gave no answer within {timeout_s:g} s", worker=worker_url, timeout_s=timeout_s)


class UpstreamStalled(RouterError):
    """A worker reads nothing of a request that it has accepted."""

    code = "upstream_stalled"
    http_status = 504
    source = Source.WORKER
    retryable = True

    def __init__(self, worker_url: str, stall_s: float) -> None:
        super().__init__(
            f"{worker_url} took nothing of the request's body for {stall_s:g} s", worker=worker_url, timeout_s=stall_s
        )


class BadSetting(RouterError):
    """A setting is unknown, malformed or out of bounds; the router does not start.

    Args:
        where: the flag, variable, or file, line and key it came from.
        why: the rest of the sentence.
    """

    code = "bad_setting"
    http_status = 400
    source = Source.CLIENT

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where} {why}", setting=where)


class WorkersNotReady(RouterError):
    """Too few of the workers that the router starts have come up; the router ends, and with it all of them.

    Args:
        why: half a sentence about what is wrong.
        tail: the last lines of the log of a worker that is not up. log: the whole of it.
    """

    code = "workers_not_ready"
    http_status = 502
    source = Source.WORKER

    def __init__(self, ready: int, wanted: int, why: str, tail: tuple[str, ...] = (), log: str | None = None) -> None:
        super().__init__(
            f"{ready} of {wanted} workers are ready, and {why}", ready=ready, wanted=wanted, tail=list(tail), log=log
        )


class StateUnusable(RouterError):
    """The file of the durable state cannot be had or written; the router does not start.

    Args:
        path: the file.
        why: the rest of the sentence.
    """

    code = "state_unusable"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"state file {path} {why}", path=path)


class StateInUse(StateUnusable):
    """Another router has the state file.

    Args:
        holder: that router's process, None when it cannot be told.
    """

    code = "state_in_use"

    def __init__(self, path: str, holder: int | None) -> None:
        who = "another router" if holder is None else f"another router (process {holder})"
        super().__init__(path, f"is in use by {who}; each router needs a --state FILE of its own")


class StateCorrupt(StateUnusable):
    """The state file is damaged, or is no state file; it was left as it is."""

    code = "state_corrupt"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, f"{why}, and was left as it is; move it away, or start with --no-state")


class StateTooNew(StateUnusable):
    """The state file is from a newer router."""

    code = "state_too_new"

    def __init__(self, path: str, schema: int, newest: int) -> None:
        super().__init__(
            path,
            f"is from a newer router (schema {schema}, this one knows {newest}), and was left as it is; "
            "start that router, or name another --state FILE",
        )


class RouteNotFound(RouterError):
    """The path belongs to the router, and the router has no such route."""

    code = "route_not_found"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, path: str) -> None:
        super().__init__(f"the router has no route {path}", path=path)


class InvalidJson(RouterError):
    """A control body is not the JSON object that it must be."""

    code = "invalid_json"
    http_status = 400
    source = Source.CLIENT


class BodyTooLarge(RouterError):
    """A request's body is longer than the limit."""

    code = "body_too_large"
    http_status = 413
    source = Source.CLIENT

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is longer than {limit_bytes} bytes", limit_bytes=limit_bytes)


class NoDiskSpace(RouterError):
    """A body that is kept on disk while workers read it did not fit there."""

    code = "no_disk_space"
    http_status = 507


class NoEligibleWorker(RouterError):
    """A call for many workers has none to go to; `by_status` counts the registered ones."""

    code = "no_eligible_worker"
    http_status = 503
    retryable = True

    def __init__(self, by_status: Mapping[str, int]) -> None:
        super().__init__("No healthy workers available in the pool", retry_after_s=1, by_status=dict(by_status))


class NoWorkerAnswered(RouterError):
    """Every worker was asked and none gave an answer that could be read."""

    code = "no_worker_answered"
    http_status = 502
    source = Source.WORKER
    retryable = True

    def __init__(self, asked: int) -> None:
        super().__init__(f"none of {asked} workers gave an answer", asked=asked)


class UnknownModel(RouterError):
    """No worker serves a model of this id."""

    code = "unknown_model"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, model: str) -> None:
        super().__init__(f"no worker serves the model {model!r}", model=model)


class Aborted(RouterError):
    """Queued work was dropped by `POST /abort_request`; 499 is nginx's "client closed request"."""

    code = "aborted"
    http_status = 499

    def __init__(self) -> None:
        super().__init__("this request was dropped from the queue by an operator")


class InternalError(RouterError):
    """A fault of the router itself; the log has its cause."""

    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("the router failed on this request; its log says why")


class TooManyConnections(RouterError):
    """The limit of client connections is reached; this one closes."""

    code = "too_many_connections"
    http_status = 503
    retryable = True

    def __init__(self, connections: int) -> None:
        super().__init__(
            f"{connections} client connections are open, the limit", retry_after_s=1, connections=connections
        )


class TooManyConnectionsOfClient(RouterError):
    """One address has as many connections as one may have; this one closes."""

    code = "too_many_connections_of_client"
    http_status = 429
    source = Source.CLIENT
    retryable = True

    def __init__(self, connections: int) -> None:
        super().__init__(
            f"{connections} connections of this client are open, the limit", retry_after_s=1, connections=connections
        )


class HttpsOnly(BadRequest):
    """A request in plain HTTP has come to a port that speaks TLS."""

    code = "https_only"
    http_status = 400

    def __init__(self) -> None:
        super().__init__("this port speaks HTTPS: begin the address with https://")


class TooManyTunnels(RouterError):
    """As many WebSocket tunnels are open as may be."""

    code = "too_many_tunnels"
    http_status = 503
    retryable = True

    def __init__(self, tunnels: int) -> None:
        super().__init__(f"{tunnels} tunnels are open, the limit", retry_after_s=1, tunnels=tunnels)


class TooManyRefits(RouterError):
    """Fleet transactions go one after the other, and enough of them wait."""

    code = "too_many_refits"
    http_status = 429
    retryable = True

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} refits wait for their turn", retry_after_s=5, waiting=waiting)


class UnknownRefit(RouterError):
    """No refit of this id is remembered."""

    code = "unknown_refit"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, refit_id: str) -> None:
        super().__init__(f"no refit {refit_id!r} is remembered", refit=refit_id)


class NoOpenRefit(RouterError):
    """A part or a commit came while no refit waits for one: begin again."""

    code = "no_open_refit"
    http_status = 409
    source = Source.CLIENT


class TooManyWorkers(RouterError):
    """Each registered worker costs a connection and a probe every few seconds, so there is an end to them."""

    code = "too_many_workers"
    http_status = 409
    source = Source.CLIENT

    def __init__(self, limit: int) -> None:
        super().__init__(f"there would be more than {limit} workers", limit=limit)


class TooManyWatchers(RouterError):
    """As many watch the fleet as may."""

    code = "too_many_watchers"
    http_status = 503
    retryable = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} watch the fleet already", retry_after_s=10, limit=limit)


class UnknownThumbnail(RouterError):
    """No thumbnail has this name: it has given way to newer ones, or the router was restarted."""

    code = "unknown_thumbnail"
    http_status = 404
    source = Source.CLIENT

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no thumbnail {name!r}, or not any more", name=name)


class IdempotencyKeyInUse(RouterError):
    """A repeat came too early or too late to join the first request."""

    code = "idempotency_key_in_use"
    http_status = 409
    source = Source.CLIENT
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "a request with this Idempotency-Key is being received or answered and can no longer be joined",
            retry_after_s=1,
        )


class IdempotencyKeyReused(RouterError):
    """One key was given to two different requests."""

    code = "idempotency_key_reused"
    http_status = 422
    source = Source.CLIENT

    def __init__(self) -> None:
        super().__init__("a different request with this Idempotency-Key is under way")


class KeyMissing(RouterError):
    """The route needs a key, and the request has none (RFC 9110 §11.6.1); nothing was done with it."""

    code = "key_missing"
    http_status = 401
    source = Source.CLIENT

    def __init__(self) -> None:
        super().__init__(
            "this needs a key: send it as 'Authorization: Bearer KEY'", headers=(("WWW-Authenticate", "Bearer"),)
        )


class KeyUnknown(RouterError):
    """The request has a key that is none of the router's; nothing was done with it."""

    code = "key_unknown"
    http_status = 401
    source = Source.CLIENT

    def __init__(self) -> None:
        super().__init__(
            "this key is none of the router's", headers=(("WWW-Authenticate", 'Bearer error="invalid_token"'),)
        )


class AdminKeyNeeded(RouterError):
    """The key is good for work and for looking, and this changes the fleet."""

    code = "admin_key_needed"
    http_status = 403
    source = Source.CLIENT

    def __init__(self) -> None:
        super().__init__("this changes the fleet and needs the admin key (--admin-key), not the API key")


class ControlElsewhere(RouterError):
    """The fleet is looked at and changed on a listener of its own (`--admin-port`)."""

    code = "control_elsewhere"
    http_status = 403
    source = Source.CLIENT

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is not served here but on the control listener (--admin-port)", path=path)


class WorkElsewhere(RouterError):
    """This is the control listener (`--admin-port`), which takes no work."""

    code = "work_elsewhere"
    http_status = 403
    source = Source.CLIENT

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is not served here: this is the control listener, work goes to --port", path=path)


class CrossOrigin(RouterError):
    """A page of another origin would have its reader's browser change the fleet."""

    code = "cross_origin"
    http_status = 403
    source = Source.CLIENT

    def __init__(self) -> None:
        super().__init__("a page of another origin may not change the fleet")


class ForeignHost(RouterError):
    """A browser came for control by a name that may be anybody's, and no key is set that would tell who it is."""

    code = "foreign_host"
    http_status = 403
    source = Source.CLIENT

    def __init__(self, host: str) -> None:
        super().__init__(
            f"browsers may not reach control as {host!r}: name it with --allow-host, set keys, or use the address",
            host=host,
        )
