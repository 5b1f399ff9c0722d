"""Take the router's own parameters off a query, and leave the rest of it byte for byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import unquote_plus

from sglang_diffusion_routing.errors import InvalidField

OWN = frozenset({"selector", "mode", "timeout_s", "weight_version", "refit"})
LONGEST_S = 86_400.0


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
