"""Derive each setting's flag, environment variable, YAML key and docs row from its declaration."""

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from sglang_diffusion_routing.settings.model import Settings
from sglang_diffusion_routing.settings.units import YEAR_S

ENV_PREFIX = "SGLANG_D_ROUTER_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as people meet it.

    field: its name in `Settings`. name: the YAML key. kind: what a value is, for help and docs ("seconds", "a | b").
    default and bounds: as text. word: stands for a value in help. takes_many: whether the flag takes several values.
    is_negatable: whether there is a flag `--no-...` beside the one that takes a value, and means off.
    """

    field: str
    name: str
    group: str
    meaning: str
    kind: str
    default: str
    bounds: str
    word: str
    is_switch: bool
    takes_many: bool
    is_negatable: bool

    @property
    def flag(self) -> str:
        """Give the command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """Give the environment variable."""
        return ENV_PREFIX + self.name.upper()


def declared() -> tuple[Setting, ...]:
    """List every setting in the order of declaration."""
    return tuple(_describe(field, info) for field, info in Settings.model_fields.items())


def _describe(field: str, info: FieldInfo) -> Setting:
    extra = info.json_schema_extra
    if not isinstance(extra, dict) or info.description is None:
        raise TypeError(f"{field} is not declared with setting()")
    return Setting(
        field=field,
        name=field.removesuffix("_s"),
        group=str(extra["group"]),
        meaning=info.description,
        kind=_kind(field, info),
        default=show(field, info.default),
        bounds=", ".join(_bounds(field, info)),
        word=_word(field, info),
        is_switch=info.annotation is bool,
        takes_many=typing.get_origin(info.annotation) is tuple,
        is_negatable=info.annotation == str | None,
    )


def _kind(field: str, info: FieldInfo) -> str:
    """Say in a word or two what a value is."""
    annotation = info.annotation
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return " | ".join(choice.value for choice in annotation)
    if typing.get_origin(annotation) is tuple:
        return f"list of {_word(field, info)}"
    if annotation == str | None:
        return f"{_declared_word(info)} or off"
    optional = " or off" if typing.get_origin(annotation) in {typing.Union, types.UnionType} else ""
    if field.endswith("_s"):
        return "seconds" + optional
    if field.endswith("_bytes"):
        return "bytes" + optional
    return {bool: "switch", str: "text"}.get(typing.cast("type", annotation), "number") + optional


def _word(field: str, info: FieldInfo) -> str:
    """Give the word that stands for a value, or one of several, on the command line."""
    if typing.get_origin(info.annotation) is tuple:
        return _declared_word(info)
    kind = _kind(field, info)
    return "NAME" if "|" in kind else kind.removesuffix(" or off").upper()


def _declared_word(info: FieldInfo) -> str:
    return str(info.json_schema_extra["word"]) if isinstance(info.json_schema_extra, dict) else ""


def _bounds(field: str, info: FieldInfo) -> Iterator[str]:
    """Tell the bounds that the declaration sets; the bound that every time has goes without saying."""
    for rule in info.metadata:
        match rule:
            case Ge(limit):
                yield f"at least {show(field, limit)}"
            case Gt(limit):
                yield f"above {show(field, limit)}"
            case Le(limit) if limit != YEAR_S:
                yield f"at most {show(field, limit)}"


def show(field: str, value: object) -> str:
    """Write a value the way people would: 256MiB, 1800, off."""
    if value is None:
        return "off"
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if field.endswith("_bytes") and isinstance(value, int):
        for factor, unit in ((2**20, "MiB"), (2**10, "KiB")):
            if value and value % factor == 0:
                return f"{value // factor}{unit}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
