"""Read a YAML file of settings so that every entry knows its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from sglang_diffusion_routing.errors import BadSetting

MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value, and the line, from 1, on which the key stands.

    entries: those of the value, when it is a mapping.
    """

    key: object
    value: object
    line: int
    entries: tuple[Entry, ...] | None


def read(path: Path, what: str) -> tuple[Entry, ...]:
    """Give the entries of the mapping in a YAML file; an empty file has none.

    Args:
        what: the entries that it is a mapping of, for the error.

    Raises:
        BadSetting: the file cannot be read, is too large, or is no YAML mapping; the sentence names the line.
    """
    text = _text(path)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return ()
        if not isinstance(root, yaml.MappingNode):
            raise BadSetting(f"{path} line {root.start_mark.line + 1}", f"must be a mapping of {what} to values")
        return _entries(loader, root)
    except yaml.YAMLError as error:
        raise BadSetting(*_fault(path, error)) from None
    except RecursionError:
        raise BadSetting(str(path), "is nested too deeply") from None


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadSetting(str(path), f"cannot be read: {error.strerror or error}") from None
    if len(text) > MAX_BYTES:
        raise BadSetting(str(path), f"is larger than {MAX_BYTES // 2**20} MiB")
    return text


def _entries(loader: yaml.SafeLoader, mapping: yaml.MappingNode) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            loader.construct_object(key, deep=True),
            loader.construct_object(value, deep=True),
            key.start_mark.line + 1,
            _entries(loader, value) if isinstance(value, yaml.MappingNode) else None,
        )
        for key, value in mapping.value
    )


def _fault(path: Path, error: yaml.YAMLError) -> tuple[str, str]:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path} line {error.problem_mark.line + 1}", f"is not valid YAML: {error.problem}"
    return str(path), "is not valid YAML: it holds a character that YAML does not allow"
