"""The command line of a simulated worker."""

import argparse
import os
import sys
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sglang_diffusion_routing.sim.settings import SimSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting: the field's name with dashes."""
    for name, field in SimSettings.model_fields.items():
        options: dict[str, Any] = {"default": field.default, "help": _help(field)}
        kind = _bare_type(field)
        if kind is bool:
            options["action"] = "store_true"
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        else:
            options["type"] = kind
            options["metavar"] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}[kind]
        parser.add_argument("--" + name.replace("_", "-"), dest=name, **options)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit status is 2 when a flag's value is refused, 1 when the port is taken."""
    values = {name: getattr(args, name) for name in SimSettings.model_fields}
    try:
        settings = SimSettings(**values)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + str(problem["loc"][0]).replace("_", "-")
            sys.stderr.write(f"{flag} {problem['input']!r}: {problem['msg']}\n")
        return 2
    # one thread is the engine, and small matrices gain nothing from more; read when numpy is first imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from sglang_diffusion_routing.sim.server import PortTaken, serve  # after the setting above, and heavy

    try:
        serve(settings)
    except PortTaken as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _help(field: FieldInfo) -> str:
    default = "" if field.default in (None, "", False) else f" (default {field.default})"
    return f"{field.description}{default}".replace("%", "%%")


def _bare_type(field: FieldInfo) -> Any:
    """Give a field's type without the None of an optional one."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    if get_origin(field.annotation) is Literal or not kinds:
        return field.annotation
    return kinds[0]
