"""The terms on which a client makes its request: fields that the router reads and no worker sees."""

from __future__ import annotations

import math
from hashlib import sha256
from urllib.parse import unquote

from sglang_diffusion_routing.core.cost import COST_MAX, COST_MIN
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidField
from sglang_diffusion_routing.http1.request_head import RequestHead

COST = b"x-sglang-router-cost"
"""States the request's work in megapixel-steps, for bodies that do not say it."""
GROUP = b"x-sglang-router-group"
"""Names the group that a request belongs to, such as all samples of one prompt."""
MIN_VERSION = b"x-sglang-router-min-weight-version"
"""Names the weight version that the worker must have, or a later one."""
PRIORITY = b"x-sglang-router-priority"
"""Says how urgent the request is: of what waits, higher is next."""
PRIORITIES = {b"batch": 0, b"training": 0, b"evaluation": 4, b"interactive": 8}
QUEUE_TIMEOUT = b"x-sglang-router-queue-timeout"
"""States for how many seconds the request may wait for a worker."""
TENANT = b"x-sglang-router-tenant"
"""Names the tenant whose share of the workers the request uses, unless the settings name another field for that."""
WORKER = b"x-sglang-router-worker"
"""Names the one worker that may do the work, by its URL or its id."""
NAME_MAX_CHARS = 256
TENANT_MAX_CHARS = 64
_CREDENTIALS = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
_CREDENTIAL_WORDS = (b"key", b"secret", b"token")


def group(head: RequestHead) -> tuple[str, bool]:
    """Give the request's group, and whether that is to be spread and not kept together; "" when it names none.

    Raises:
        InvalidField: the name is empty, too long or unprintable, or what comes after it is not `;spread`.
    """
    raw = head.router_fields.get(GROUP)
    if raw is None:
        return "", False
    value, *parameters = (part.strip() for part in _text(raw).split(";"))
    field = GROUP.decode()
    if not _is_name(value):
        raise InvalidField(field, f"{field} must begin with a name of 1 to {NAME_MAX_CHARS} printable characters")
    if [parameter.lower() for parameter in parameters] not in ([], ["spread"]):
        raise InvalidField(field, f"{field} must be a name, or a name and ;spread; a name has no semicolon")
    return value, bool(parameters)


def min_version(head: RequestHead) -> str | None:
    """Give the weight version that the request demands, None when it demands none.

    Raises:
        InvalidField: it is empty, too long, or has characters that cannot be printed.
    """
    raw = head.router_fields.get(MIN_VERSION)
    if raw is None:
        return None
    version = _text(raw)
    if not _is_name(version):
        name = MIN_VERSION.decode()
        raise InvalidField(name, f"{name} must be a weight version of 1 to {NAME_MAX_CHARS} printable characters")
    return version


def stated_cost(head: RequestHead) -> float | None:
    """Give the work that the client states, in megapixel-steps; None when it states none.

    Raises:
        InvalidField: it is no positive number.
    """
    cost = _positive(head, COST, "megapixel-steps")
    return None if cost is None else min(max(cost, COST_MIN), COST_MAX)


def priority(head: RequestHead) -> int:
    """Give the request's priority, 0 when it states none.

    Raises:
        InvalidField: it is neither a name nor a number of the range.
    """
    raw = head.router_fields.get(PRIORITY)
    if raw is None:
        return 0
    named = PRIORITIES.get(raw.lower())
    if named is not None:
        return named
    if len(raw) == 1 and raw.isdigit():
        return int(raw)
    field, names = PRIORITY.decode(), ", ".join(name.decode() for name in PRIORITIES)
    raise InvalidField(field, f"{field} must be {names}, or a whole number from 0 to 9")


def queue_timeout_s(head: RequestHead) -> float | None:
    """Give the seconds for which the client lets the request wait, None when it does not say.

    Raises:
        InvalidField: it is no positive number.
    """
    return _positive(head, QUEUE_TIMEOUT, "seconds")


def tenant(head: RequestHead, field: bytes) -> str:
    """Give the tenant that a request is for, "" when it names none.

    What may be a credential, or is too long to be shown, stands as a digest: two alike are one tenant, and neither a
    log nor a reply shows them.

    Args:
        field: that names it, in lower case.

    Raises:
        InvalidField: `TENANT` is empty, too long or unprintable; of another field any value will do.
    """
    if field == TENANT:
        raw = head.router_fields.get(TENANT)
        name = "" if raw is None else _text(raw)
        if raw is not None and not (0 < len(name) <= TENANT_MAX_CHARS and name.isprintable()):
            what = TENANT.decode()
            raise InvalidField(what, f"{what} must be a name of 1 to {TENANT_MAX_CHARS} printable characters")
        return name
    raw = head.field(field)
    if not raw:
        return ""
    name = _text(raw)
    is_secret = field in _CREDENTIALS or any(word in field for word in _CREDENTIAL_WORDS)
    if is_secret or len(name) > TENANT_MAX_CHARS or not name.isprintable():
        return f"sha256:{sha256(raw).hexdigest()[:16]}"
    return name


def worker(head: RequestHead) -> WorkerId | None:
    """Give the one worker that may do the work, None when any may.

    An id is a percent-encoded URL, and no URL of a worker has a percent sign.

    Raises:
        InvalidWorkerUrl: it is no URL of a worker.
    """
    raw = head.router_fields.get(WORKER)
    if raw is None:
        return None
    return WorkerId(str(WorkerUrl.parse(unquote(raw.decode("latin-1")))))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Replies carry versions as Latin-1 (RFC 9110 §5.5 knows no other than that and ASCII).
        return raw.decode("latin-1")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_MAX_CHARS and text.isprintable()


def _positive(head: RequestHead, field: bytes, unit: str) -> float | None:
    raw = head.router_fields.get(field)
    if raw is None:
        return None
    try:
        number = float(raw)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        name = field.decode()
        raise InvalidField(name, f"{name} must be a positive number of {unit}")
    return number
