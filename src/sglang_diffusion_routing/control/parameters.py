"""Take the router's own parameters off a query, and leave the rest of it byte for byte."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_plus

from sglang_diffusion_routing.core.refit import Mode
from sglang_diffusion_routing.errors import InvalidField

OF_REFITS = frozenset({"mode", "max_unavailable", "admit", "refit"})
"""What has a meaning only where weights are changed."""

OWN = frozenset({"selector", "timeout_s", "weight_version"}) | OF_REFITS
LONGEST_S = 86_400.0
VERSION_MAX = 256
"""Characters of a version: it is shown in a header of every reply."""

_COUNT = re.compile(r"[1-9][0-9]{0,4}")


class Part(StrEnum):
    """What a request is in a refit that comes in several."""

    BEGIN = "begin"
    PART = "part"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Pace:
    """How the fleet goes over to new weights.

    at_once: workers out of service together, of a rolling refit; None for all.
    admit_new: of a rolling refit, whether only the new version serves as soon as one worker has it.
    """

    mode: Mode = Mode.DRAIN
    at_once: int | None = None
    admit_new: bool = False


def split_query(query: bytes) -> tuple[Mapping[str, str], bytes]:
    """Split a raw query into the router's own parameters, decoded, and the rest as it came.

    Raises:
        InvalidField: one of the router's own is given twice or is not UTF-8.
    """
    own: dict[str, str] = {}
    rest: list[bytes] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        key = unquote_plus(name.decode("latin-1"))
        if key not in OWN:
            rest.append(part)
            continue
        if key in own:
            raise InvalidField(key, f"{key!r} is given twice")
        try:
            own[key] = unquote_plus(value.decode("ascii"), errors="strict")
        except UnicodeDecodeError:
            raise InvalidField(key, f"{key!r} is not percent-encoded UTF-8") from None
    return own, b"&".join(rest)


def read_timeout(own: Mapping[str, str]) -> float | None:
    """Read `timeout_s`, None when it is absent.

    Raises:
        InvalidField: it is not a number of seconds above 0 and up to a day.
    """
    text = own.get("timeout_s")
    if text is None:
        return None
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= LONGEST_S:
        raise InvalidField("timeout_s", f"'timeout_s' must be a number of seconds above 0 and up to {LONGEST_S:g}")
    return timeout_s


def read_pace(own: Mapping[str, str]) -> Pace:
    """Read `mode`, and for a rolling refit `max_unavailable` (1 unless given) and `admit`.

    Raises:
        InvalidField: one has no such value, or does not go with the mode.
    """
    mode = _mode(own)
    if mode is not Mode.ROLLING:
        for key in ("max_unavailable", "admit"):
            if key in own:
                raise InvalidField(key, f"{key!r} goes with mode=rolling only")
        return Pace(mode)
    admit = own.get("admit")
    if admit not in {None, "new"}:
        raise InvalidField("admit", f"'admit' has no value {admit!r}; it knows new")
    text = own.get("max_unavailable", "1")
    if not _COUNT.fullmatch(text):
        raise InvalidField("max_unavailable", "'max_unavailable' must be a whole number from 1 to 99999")
    return Pace(mode, at_once=int(text), admit_new=admit == "new")


def _mode(own: Mapping[str, str]) -> Mode:
    try:
        return Mode(own.get("mode", Mode.DRAIN.value))
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise InvalidField("mode", f"'mode' has no value {own['mode']!r}; it knows {known}") from None


def read_part(own: Mapping[str, str]) -> Part | None:
    """Read `refit`, None when it is absent; what a refit is told when it begins is not told again.

    Raises:
        InvalidField: it has no such value, or another parameter does not go with it.
    """
    text = own.get("refit")
    if text is None:
        return None
    try:
        part = Part(text)
    except ValueError:
        known = ", ".join(Part)
        raise InvalidField("refit", f"'refit' has no value {text!r}; it knows {known}") from None
    if part is Part.BEGIN:
        if own.get("mode") == Mode.ROLLING.value:
            raise InvalidField("mode", "a refit that comes in several requests cannot be rolling")
        return part
    for key in ("mode", "timeout_s", "weight_version"):
        if key in own:
            raise InvalidField(key, f"{key!r} goes with refit=begin, not with refit={text}")
    return part


def read_version(in_query: str | None, in_body: object = None) -> str | None:
    """Give the version that the query or the body names; None where neither does.

    Raises:
        InvalidField: they name different ones, or it is no version.
    """
    if isinstance(in_body, int) and not isinstance(in_body, bool):
        in_body = str(in_body)
    if in_body is not None and not isinstance(in_body, str):
        raise InvalidField("weight_version", "'weight_version' must be a string")
    if None not in (in_query, in_body) and in_query != in_body:
        raise InvalidField("weight_version", "'weight_version' differs between the query and the body")
    version = in_body if in_query is None else in_query
    if version is not None and not (version.isprintable() and 0 < len(version) <= VERSION_MAX):
        raise InvalidField("weight_version", f"'weight_version' must have 1 to {VERSION_MAX} printable characters")
    return version
