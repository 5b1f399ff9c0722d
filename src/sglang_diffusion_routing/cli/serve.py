"""`sglang-d-router [serve]`: run the router."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sglang_diffusion_routing import __version__, app, logs
from sglang_diffusion_routing.cli.parser import PROGRAM, Parser
from sglang_diffusion_routing.settings import LogFormat, Settings, load
from sglang_diffusion_routing.settings.declared import Setting, declared

DESCRIPTION = "Route image, video and rollout requests to many SGLang-Diffusion workers behind one address."
EPILOG = """\
commands:
  serve                 run the router; also without a command
  top, workers, refit, sleep, wake, pause, continue, abort, weights, jobs, doctor
                        look at a running router and steer it; each has --help
  demo                  a whole reinforcement-learning loop on simulated workers
  sim                   one simulated worker
  bench                 compare routing algorithms, or load an address
  completion            print a script for a shell's completion

Every flag can be set in the environment (--queue-timeout: SGLANG_D_ROUTER_QUEUE_TIMEOUT) and in the YAML file
(queue_timeout). A flag wins over the environment, and that over the file. Times are in seconds and take a
unit (15m, 500ms), sizes in bytes (256MiB).
"""


def run(argv: Sequence[str]) -> int:
    """Serve until a signal ends it, and give the exit status."""
    settings = parse(argv, os.environ)
    logs.configure(level=settings.effective_log_level, as_json=settings.log_format is LogFormat.JSON)
    return app.serve(settings)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Give the settings that the command line, the environment and the file ask for.

    Raises:
        BadSetting: one of them holds an unknown key or a bad value.
    """
    flags = vars(parser().parse(argv))
    config = flags.pop("config", None)
    return load(flags, environ, config)


def parser() -> Parser:
    """Build a flag for each setting; a flag that is not given leaves no trace."""
    built = Parser("", DESCRIPTION, epilog=EPILOG)
    built.usage = f"{PROGRAM} [command] [flags]"
    built.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    built.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="YAML file with settings")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in declared():
        if setting.group not in groups:
            groups[setting.group] = built.add_argument_group(setting.group.lower())
        _add_flag(groups[setting.group], setting)
    return built


def _add_flag(group: "argparse._ArgumentGroup", setting: Setting) -> None:
    """Add the flag of one setting; its value stays text, the settings read it."""
    meaning = setting.meaning.replace("%", "%%")
    if setting.is_switch:
        group.add_argument(
            setting.flag,
            dest=setting.field,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=meaning,
        )
        return
    choices = f": {setting.kind}" if "|" in setting.kind else ""
    group.add_argument(
        setting.flag,
        dest=setting.field,
        metavar=setting.word,
        default=argparse.SUPPRESS,
        help=f"{meaning}{choices} (default {setting.default})",
        nargs="+" if setting.takes_many else None,
        action="extend" if setting.takes_many else "store",
    )
    if setting.is_negatable:
        group.add_argument(
            setting.flag.replace("--", "--no-", 1),
            dest=setting.field,
            action="store_const",
            const="off",
            default=argparse.SUPPRESS,
            help=f"the same as {setting.flag} off",
        )
