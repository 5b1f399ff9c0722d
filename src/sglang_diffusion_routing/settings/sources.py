"""Collect settings from flags, environment and a YAML file: a flag wins over the environment, that over the file."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import yaml_file
from sglang_diffusion_routing.settings.declared import ENV_PREFIX, Setting, declared, show
from sglang_diffusion_routing.settings.model import Settings

CONFIG_ENV = ENV_PREFIX + "CONFIG"
CLIENTS_ENV = frozenset({ENV_PREFIX + "URL"})
"""What the commands against a running router read; the same shell may start one."""

# A Kubernetes service called "sglang-d-router" puts these into every container of its namespace
# (https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables): none of ours.
_KUBERNETES = re.compile(
    ENV_PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://.+")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody wrote it, and where."""

    value: object
    where: str


def load(flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """Give the settings that `flags`, then `environ`, then the file `config` ask for, else the defaults.

    Args:
        flags: values from the command line by field of `Settings`, only those that were given.
        environ: the process's environment; variables without the router's prefix are ignored.
        config: a YAML file; without it, the one that the environment names.

    Raises:
        BadSetting: a key is unknown or doubled, a value malformed or out of bounds, or the file unreadable.
    """
    settings = declared()
    if config is None and environ.get(CONFIG_ENV):
        config = Path(environ[CONFIG_ENV])
    given: dict[str, _Given] = {}
    if config is not None:
        given.update(_from_yaml(config, settings))
    given.update(_from_environ(environ, settings))
    flag_of = {setting.field: setting.flag for setting in settings}
    given.update({field: _Given(value, flag_of[field]) for field, value in flags.items()})
    try:
        return Settings.model_validate({field: entry.value for field, entry in given.items()})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field, *item = fault["loc"]
        source = given[str(field)]
        raise BadSetting(source.where, _sentence(fault, fault["input"] if item else source.value)) from None


def _from_environ(environ: Mapping[str, str], settings: Iterable[Setting]) -> dict[str, _Given]:
    """Read the variables with the router's prefix."""
    field_of = {setting.env: setting.field for setting in settings}
    given: dict[str, _Given] = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name == CONFIG_ENV or name in CLIENTS_ENV or _is_kubernetes(name, value):
            continue
        if name not in field_of:
            raise BadSetting(name, "is no setting of the router" + _suggest(name, field_of))
        given[field_of[name]] = _Given(value, name)
    return given


def _is_kubernetes(name: str, value: str) -> bool:
    if name == ENV_PREFIX + "PORT":
        return _KUBERNETES_PORT_VALUE.fullmatch(value) is not None
    return _KUBERNETES.fullmatch(name) is not None


def _from_yaml(path: Path, settings: Iterable[Setting]) -> dict[str, _Given]:
    """Read a YAML mapping of settings."""
    field_of = {setting.name: setting.field for setting in settings}
    given: dict[str, _Given] = {}
    for entry in yaml_file.read(path, "settings"):
        key, where = entry.key, f"{path} line {entry.line}"
        if not isinstance(key, str) or key not in field_of:
            raise BadSetting(where, f"{key!r} is no setting of the router" + _suggest(str(key), field_of))
        if field_of[key] in given:
            raise BadSetting(where, f"{key!r} is set a second time")
        given[field_of[key]] = _Given(entry.value, f"{where}: {key}")
    return given


def _sentence(fault: ErrorDetails, written: object) -> str:
    """Say behind the name of a setting what is wrong with the value as it was written."""
    facts = fault.get("ctx", {})
    bound = {
        "greater_than_equal": ("must be at least", "ge"),
        "greater_than": ("must be above", "gt"),
        "less_than_equal": ("must be at most", "le"),
        "less_than": ("must be below", "lt"),
    }.get(fault["type"])
    if bound:
        return f"{bound[0]} {show(str(fault['loc'][0]), facts[bound[1]])}, not {written}"
    if fault["type"] == "value_error":
        return str(facts["error"])
    if fault["type"] == "string_too_short":
        return "must not be empty"
    wanted = {
        "enum": f"one of {facts.get('expected')}",
        "finite_number": "a finite number",
        "string_type": "text",
    }[fault["type"]]
    return f"must be {wanted}, not {written!r}"


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""
