"""Declare what a launcher file may say, and read one.

A file is a YAML mapping with the one key `launcher`. Each of its keys is declared once, as a field of `LauncherConfig`
with its type, default, bounds and meaning; docs/launchers.md has a table of them. A key that means something to some
backends only names them (`backends`), and is refused with any other.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import templates
from sglang_diffusion_routing.settings import yaml_file
from sglang_diffusion_routing.settings.units import Bytes, Seconds

ROOT = "launcher"
WORKERS_MAX = 1024


class BackendName(StrEnum):
    """What starts the workers."""

    LOCAL = "local"
    RAY = "ray"
    EXTERNAL = "external"


LOCAL, RAY, EXTERNAL = BackendName.LOCAL, BackendName.RAY, BackendName.EXTERNAL


def _words(value: object) -> tuple[str, ...]:
    """Read the words of a command: text as a shell splits it, or a list of text and numbers."""
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {str(error).lower()}") from None
    if isinstance(value, list | tuple):
        return tuple(_word(item) for item in value)
    raise ValueError(f"must be text or a list of words, not {value!r}")


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"must hold words and numbers, not {value!r}; what YAML takes for something else needs quotes")


def _command(value: object) -> tuple[str, ...]:
    words = _words(value)
    if not words:
        raise ValueError("must not be empty")
    return words


def _optional_command(value: object) -> tuple[str, ...] | None:
    return None if value is None else _command(value)


def _gpu_ids(value: object) -> tuple[str, ...] | None:
    """Read the GPUs of each worker, as CUDA_VISIBLE_DEVICES has them."""
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be null or a list with one entry a worker, as ["0,1", "2,3"], not {value!r}')  # noqa: TRY004 - pydantic's
    sets = tuple(",".join(part.strip() for part in _word(item).split(",")) for item in value)
    for ids in sets:
        if not all(ids.split(",")):
            raise ValueError(f"must name GPUs with commas between them, not {ids!r}")
    return sets


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of names to values, not {value!r}")  # noqa: TRY004 - pydantic's
    for name in value:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"must not have {name!r} for a name")
    return {name: _word(item) for name, item in value.items()}


def _bare_text(value: object) -> object:
    if isinstance(value, str) and (not value or "\0" in value):
        raise ValueError("must not hold a null character" if value else "must not be empty")
    return value


PLACEHOLDERS = ("index", "model", "gpus", "host", "port", "master_port", "scheduler_port")
"""What commands and URLs of the backend external may ask for."""


def _template(value: object) -> object:
    """Refuse placeholders that there are not."""
    words = (value,) if isinstance(value, str) else value
    if isinstance(words, tuple):
        templates.check(words, PLACEHOLDERS)
    return value


def _pattern(value: object) -> object:
    if isinstance(value, str):
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if groups == 0:
            raise ValueError("has no group, which would be the URL, as in 'listening on (http://\\S+)'")
    return value


Command = Annotated[tuple[str, ...], BeforeValidator(_command)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
GpuIds = Annotated[tuple[str, ...] | None, BeforeValidator(_gpu_ids)]
Environment = Annotated[dict[str, str], BeforeValidator(_environment)]
Text = Annotated[str, BeforeValidator(_bare_text)]
CommandTemplate = Annotated[tuple[str, ...] | None, AfterValidator(_template), BeforeValidator(_optional_command)]
UrlTemplate = Annotated[str, AfterValidator(_template), BeforeValidator(_bare_text)]
UrlPattern = Annotated[str | None, AfterValidator(_pattern), BeforeValidator(_bare_text)]
Port = Annotated[int, Field(ge=1, le=65_534)]


def _key(default: object, meaning: str, *backends: BackendName, **bounds: Any) -> Any:
    """Declare a key; without `backends` it means something to all of them."""
    extra: JsonDict = {"backends": [backend.value for backend in backends]}
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


class LauncherConfig(BaseModel):
    """Everything that a launcher file can say, checked and frozen.

    A name that ends in `_s` or `_bytes` is written without it: `wait_timeout: 600`, `log_max: 64MiB`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    backend: Annotated[BackendName, Field(strict=False)] = _key(LOCAL, "what starts the workers")
    model: Text = _key(..., "the model's path or id, as `--model-path` takes it")
    num_workers: int = _key(1, "how many workers", ge=1, le=WORKERS_MAX)
    num_gpus_per_worker: int = _key(1, "GPUs of each worker; 0 for an engine that needs none", ge=0, le=64)
    worker_host: Text = _key(
        "127.0.0.1", "address that the workers listen on; with ray, loopback stands for the node's own"
    )
    worker_base_port: Port = _key(10_090, "worker i listens on this + 2i; the port above is its broker's")
    worker_gpu_ids: GpuIds = _key(
        None, "the GPUs of each worker; else those of CUDA_VISIBLE_DEVICES, else those found", LOCAL
    )
    worker_extra_args: Words = _key((), "further arguments of each worker", LOCAL, RAY)
    worker_command: Command = _key(("sglang", "serve"), "what is called with the arguments", LOCAL, RAY)
    worker_env: Environment = _key({}, "environment variables of each worker, beside the router's own")
    command: CommandTemplate = _key(
        None,
        "what starts a worker and runs for as long as there is one, with placeholders: {index}, {port}, ...",
        EXTERNAL,
    )
    stop_command: CommandTemplate = _key(
        None, "what is called when a worker's command has ended, with placeholders: scancel, kubectl delete", EXTERNAL
    )
    url: UrlTemplate = _key("http://{host}:{port}", "where a worker listens, with placeholders", EXTERNAL)
    url_pattern: UrlPattern = _key(
        None, "regular expression whose first group is the URL, in what the command writes; instead of url", EXTERNAL
    )
    address: Text = _key("auto", "the Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT", RAY)
    num_cpus_per_worker: int = _key(1, "CPUs that Ray sets aside for each worker", RAY, ge=0, le=1024)
    wait_timeout_s: Seconds = _key(600.0, "how long a worker may take until it serves", gt=0)
    stop_timeout_s: Seconds = _key(10.0, "how long a worker that is asked to end may take until it is killed", ge=0)
    master_port_base: Port = _key(30_005, "first port of worker 0's process group")
    scheduler_port_base: Port = _key(5555, "first port of worker 0's schedulers")
    internal_port_stride: int = _key(1000, "worker i has these ports this much times i further on", ge=1, le=65_535)
    restart_delay_s: Seconds = _key(1.0, "wait after a first death; doubled after each that follows", ge=0)
    restart_delay_max_s: Seconds = _key(60.0, "longest wait after a death", ge=0)
    restart_limit: int = _key(5, "deaths, none of them after a time of serving, that are a crash loop", ge=1, le=1000)
    restart_window_s: Seconds = _key(300.0, "serving for this long makes earlier deaths forgotten", gt=0)
    log_dir: Text | None = _key(
        None, "folder of the workers' logs; else one beside the router's state, with ray one in the node's /tmp"
    )
    log_max_bytes: Bytes = _key(64 * 2**20, "a worker's log; the one before it is kept beside it", ge=2**16)


def names() -> dict[str, str]:
    """Give the key in the file of each field."""
    return {field: field.removesuffix("_s").removesuffix("_bytes") for field in LauncherConfig.model_fields}


def backends_of(field: str) -> list[str]:
    """Tell which backends a field means something to; none named, to all."""
    extra = LauncherConfig.model_fields[field].json_schema_extra
    return [str(name) for name in extra["backends"]] if isinstance(extra, dict) else []  # type: ignore[union-attr]


def read(path: Path) -> LauncherConfig:
    """Read a launcher file.

    Raises:
        BadSetting: it cannot be read or says something that it may not; the one sentence names the key and its line.
    """
    root = None
    for entry in yaml_file.read(path, "settings"):
        where = f"{path} line {entry.line}"
        if entry.key != ROOT:
            raise BadSetting(where, f"{entry.key!r} is not known here; a launcher file has the one key {ROOT!r}")
        if root is not None:
            raise BadSetting(where, f"{ROOT!r} is set a second time")
        root = entry
    if root is None:
        raise BadSetting(str(path), f"has no {ROOT!r}")
    if root.entries is None:
        raise BadSetting(f"{path} line {root.line}: {ROOT}", "must be a mapping of settings to values")
    return _checked(path, root, root.entries)


def _checked(path: Path, root: yaml_file.Entry, entries: tuple[yaml_file.Entry, ...]) -> LauncherConfig:
    field_of = {name: field for field, name in names().items()}
    lines: dict[str, int] = {}
    values: dict[str, object] = {}
    for entry in entries:
        where = f"{path} line {entry.line}"
        if not isinstance(entry.key, str) or entry.key not in field_of:
            raise BadSetting(where, f"{entry.key!r} is no setting of a launcher" + _suggest(str(entry.key), field_of))
        field = field_of[entry.key]
        if field in values:
            raise BadSetting(where, f"{entry.key!r} is set a second time")
        lines[field], values[field] = entry.line, entry.value
    try:
        config = LauncherConfig.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = str(fault["loc"][0])
        where = f"{path} line {lines.get(field, root.line)}: {names()[field]}"
        raise BadSetting(where, _sentence(fault, values.get(field))) from None
    for field, line in lines.items():
        allowed = backends_of(field)
        if values[field] is not None and allowed and config.backend.value not in allowed:
            why = f"means nothing to the backend {config.backend.value}, only to {' and '.join(allowed)}"
            raise BadSetting(f"{path} line {line}: {names()[field]}", why)
    return _consistent(path, lines, config)


def _consistent(path: Path, lines: Mapping[str, int], config: LauncherConfig) -> LauncherConfig:
    """Check what several keys say together."""
    if config.backend is EXTERNAL and config.command is None:
        raise BadSetting(f"{path} line {lines['backend']}: command", "is missing, and the backend external needs it")
    if "url" in lines and config.url_pattern is not None:
        raise BadSetting(f"{path} line {lines['url']}: url", "and url_pattern cannot both be given")
    ids = config.worker_gpu_ids
    if ids is None:
        return config
    where = f"{path} line {lines['worker_gpu_ids']}: worker_gpu_ids"
    if len(ids) != config.num_workers:
        raise BadSetting(where, f"must have one entry for each of {config.num_workers} workers, not {len(ids)}")
    for worker, gpus in enumerate(ids):
        number = len(gpus.split(","))
        if number != config.num_gpus_per_worker:
            raise BadSetting(where, f"gives worker {worker} {number} GPUs, not {config.num_gpus_per_worker}")
    return config


_BOUNDS = {
    "greater_than_equal": ("must be at least", "ge"),
    "greater_than": ("must be above", "gt"),
    "less_than_equal": ("must be at most", "le"),
}
_WANTED = {
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "finite_number": "must be a finite number",
}


def _sentence(fault: ErrorDetails, written: object) -> str:
    """Say behind the name of a key what is wrong with its value."""
    facts = fault.get("ctx", {})
    kind = fault["type"]
    if kind == "missing":
        return "is missing"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = facts[bound]
        return f"{words} {int(limit) if limit == int(limit) else limit}, not {written}"
    if kind == "value_error":
        return str(facts["error"])
    if kind == "enum":
        return f"must be one of {facts['expected']}, not {written!r}"
    return f"{_WANTED[kind]}, not {written!r}"


def _suggest(name: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""
