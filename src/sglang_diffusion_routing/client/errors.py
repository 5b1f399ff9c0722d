"""What can go wrong for a client, by what it can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors of the client."""


class Unreachable(ClientError):
    """No whole reply came: nobody listens, or the connection broke. Whether the work was done is not known."""


class Refused(ClientError):
    """The router, or the worker behind it, answered with an error.

    Attributes:
        status: of the reply.
        code: the router's own stable code (docs/errors.md), empty for a worker's error.
        facts: what the router says beside the sentence.
        retry_after_s: when to ask again, None when it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        facts: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.code = code
        self.facts: Mapping[str, Any] = {} if facts is None else facts
        self.retry_after_s = retry_after_s


class DecodeError(ClientError, ValueError):
    """A reply is not what its route sends.

    Attributes:
        field: path of the member that is wrong, such as `[0].dit_trajectory.latents`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class FanOutFailed(ClientError):
    """Not every worker has done what all were to do.

    Attributes:
        reply: what each worker said: {"results", "success", "skipped", ...}.
    """

    def __init__(self, what: str, reply: Mapping[str, Any]) -> None:
        super().__init__(f"{what}: {_failures(reply) or reply.get('message') or 'not every worker did it'}")
        self.reply = reply


class JobFailed(ClientError):
    """A job has ended without a result.

    Attributes:
        job: what the worker says of it.
    """

    def __init__(self, job_id: str, job: Mapping[str, Any]) -> None:
        super().__init__(f"{job_id}: {job.get('error') or job.get('status')}")
        self.job = job


class TookTooLong(ClientError, TimeoutError):
    """What was waited for has not come in the time that was given; it may still come."""


class SamplesMissing(ClientError):
    """Some rollouts of a batch have failed.

    Attributes:
        failures: the error of each, by its index in the batch.
    """

    def __init__(self, failures: Mapping[int, ClientError], total: int) -> None:
        first = min(failures)
        super().__init__(f"{len(failures)} of {total} rollouts failed; number {first}: {failures[first]}")
        self.failures = failures


def _failures(reply: Mapping[str, Any]) -> str:
    rows = [row for row in reply.get("results", ()) if not succeeded(row)]
    told = [f"{row.get('worker_url')} answered {row.get('status_code')}: {row.get('body')}" for row in rows]
    told += [f"{row.get('worker_url')} was skipped: {row.get('reason')}" for row in reply.get("skipped", ())]
    return "; ".join(told)


def succeeded(row: Mapping[str, Any]) -> bool:
    """Tell whether a worker did what all were to do: some say in a 200 that they have not."""
    body = row.get("body")
    return row.get("status_code") == 200 and not (isinstance(body, Mapping) and body.get("success") is False)
