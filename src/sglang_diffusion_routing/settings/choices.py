"""The choices and words that settings are made of, and how one is declared."""

from enum import StrEnum
from typing import Any

from pydantic import Field
from pydantic.config import JsonDict


class RoutingAlgorithm(StrEnum):
    """What is next of the work that waits, and which of several workers gets it (docs/scheduling.md)."""

    LEAST_WORK = "least-work"
    LONGEST_FIRST = "longest-first"
    LEAST_REQUEST = "least-request"
    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    POWER_OF_TWO = "power-of-two"
    CONSISTENT_HASH = "consistent-hash"


class LogLevel(StrEnum):
    """The least urgent events that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogFormat(StrEnum):
    """Who reads the log."""

    PEOPLE = "people"
    JSON = "json"


STATE_AUTO = "auto"
"""The word for a state file whose place follows from host and port."""


TENANT_FIELD = "x-sglang-router-tenant"
"""The field that names the tenant of a request, unless the settings name another."""


TIMEOUT = "timeout"
"""The word for what is late, among the failures after which another worker is tried."""


class OnDisconnect(StrEnum):
    """What becomes of work whose client has left."""

    DISCARD = "discard"
    CANCEL = "cancel"


def setting(
    group: str,
    default: object,
    meaning: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    word: str = "WORD",
) -> Any:
    """Declare a setting; `word` is what each item of a list is, or text that may be off."""
    extra: JsonDict = {"group": group, "word": word}
    return Field(default, description=meaning, json_schema_extra=extra, ge=ge, gt=gt, le=le, min_length=min_length)
