"""Read the values that people write: seconds, sizes, counts, lists, switches.

Each reader takes what a flag or an environment variable (text) or YAML (text, numbers, booleans, lists) gave, and
raises ValueError with half a sentence that goes behind the name of the setting: "must be a whole number, not 'two'".
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))\s*([A-Za-z]*)", re.ASCII)
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip

YEAR_S = 365 * 24 * 3600
"""Longest time that a setting may ask for; event loops count milliseconds in a fixed number of bits."""


def _measure(value: object, factors: Mapping[str, float], wanted: str) -> float:
    """Read a number with an optional unit out of `factors`, in the base unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**63 else math.inf  # an endless integer has no float
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    factor = factors.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"must be {wanted}, not {value!r}")
    return float(match[1]) * factor


def read_seconds(value: object) -> float:
    """Read a time in seconds: 30, "30", "30s", "500ms", "15m", "1h"."""
    return _measure(value, _SECONDS, "a number of seconds (30, 500ms, 15m, 1h)")


def read_bytes(value: object) -> int:
    """Read a size in bytes: 65536, "64KiB", "256MiB", "1GB"."""
    size = _measure(value, _BYTES, "a number of bytes (65536, 64KiB, 256MiB)")
    if not math.isfinite(size) or not size.is_integer():
        raise ValueError(f"must be a whole number of bytes, not {value!r}")
    return int(size)


def read_percent(value: object) -> float:
    """Read a number that is out of a hundred, and may have a fraction."""
    return _measure(value, {"": 1.0}, "a number from 0 to 100")


def read_count(value: object) -> int:
    """Read a whole number; 3.0 and true are none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip(), re.ASCII):
        return int(value)
    raise ValueError(f"must be a whole number, not {value!r}")


def read_switch(value: object) -> bool:
    """Read true or false, as a word or as 1 or 0."""
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    raise ValueError(f"must be true or false, not {value!r}")


def read_optional(value: object) -> object:
    """Turn the words for "no limit" into None; YAML reads a bare `off` as false."""
    if value is False or (isinstance(value, str) and value.strip().lower() in {"off", "none"}):
        return None
    return value


def read_text_or_off(value: object) -> object:
    """Read text; the words for "no limit" and a YAML `off` turn into None."""
    value = read_optional(value)
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return value


def read_list(value: object) -> tuple[str, ...]:
    """Read a list of words: a YAML list, or text with commas or blanks between them."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(word for item in value for word in read_list(item))
    raise ValueError(f"must be a list of words, not {value!r}")


def read_keys(value: object) -> tuple[SecretStr, ...]:
    """Read keys: a YAML list, or text with commas or blanks between them; no error repeats one."""
    if isinstance(value, tuple) and all(isinstance(item, SecretStr) for item in value):
        return value
    try:
        words = read_list(value)
    except ValueError:
        raise ValueError("must be text, or a list of texts; in YAML a number needs quotes") from None
    if not words:
        raise ValueError("must not be empty")
    if not all(re.fullmatch(r"[\x21-\x7e]+", word) for word in words):
        raise ValueError("must be visible ASCII characters")
    return tuple(map(SecretStr, words))


def read_counts_and_words(value: object) -> tuple[int | str, ...]:
    """Read a list of whole numbers and words: a YAML list, or text with commas or blanks between them."""
    items = value if isinstance(value, list | tuple) else read_list(value)
    is_word = re.compile(r"[A-Za-z]+").fullmatch
    return tuple(item if isinstance(item, str) and is_word(item) else read_count(item) for item in items)


def read_network(value: object) -> IpNetwork:
    """Read an address or a network in CIDR notation."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"must hold addresses or networks like 10.0.0.0/8: {error}") from None


Seconds = Annotated[float, Field(le=YEAR_S, allow_inf_nan=False), BeforeValidator(read_seconds)]
Bytes = Annotated[int, BeforeValidator(read_bytes)]
Count = Annotated[int, BeforeValidator(read_count)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(read_percent)]
Switch = Annotated[bool, BeforeValidator(read_switch)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(read_keys)]
Words = Annotated[tuple[str, ...], BeforeValidator(read_list)]
CountsAndWords = Annotated[tuple[int | str, ...], BeforeValidator(read_counts_and_words)]
Networks = Annotated[tuple[Annotated[IpNetwork, BeforeValidator(read_network)], ...], BeforeValidator(read_list)]
OptionalSeconds = Annotated[Seconds | None, BeforeValidator(read_optional)]
OptionalText = Annotated[str | None, BeforeValidator(read_text_or_off)]
OptionalCount = Annotated[Count | None, BeforeValidator(read_optional)]
