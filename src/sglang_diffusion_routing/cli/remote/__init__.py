"""Commands against a running router."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sglang_diffusion_routing.cli.parser import PROGRAM, Parser
from sglang_diffusion_routing.cli.remote import doctor, fleet, looks, queue, top, workers
from sglang_diffusion_routing.cli.remote.options import add_common, cause, connect, key_wanted
from sglang_diffusion_routing.cli.remote.screen import Screen, printable
from sglang_diffusion_routing.client import Client, ClientError, Refused, Unreachable

FAILED = 1
UNREACHABLE = 3
REFUSED = 4
"""Exit statuses: a worker did not do it, or a check found a fault; the router does not answer; it says no."""


class Command(NamedTuple):
    """meaning: one line. add: declares its own flags. act: does it, and gives the exit status."""

    meaning: str
    add: Callable[[argparse.ArgumentParser], None]
    act: Callable[[Client, argparse.Namespace, Screen], int]


COMMANDS = {
    "top": Command("the fleet as it works", top.add_top, top.top),
    "workers": Command("list, add, remove, drain, recover, restart them", workers.add_workers, workers.workers),
    "refit": Command("load a checkpoint into the workers", fleet.add_refit, fleet.refit),
    "sleep": Command("have the workers release their memory", fleet.add_sleep, fleet.sleep),
    "wake": Command("have the workers take their memory back", fleet.add_wake, fleet.wake),
    "pause": Command("hold the queue", queue.add_pause, queue.pause),
    "continue": Command("release the queue", queue.add_continue, queue.resume),
    "abort": Command("drop what waits", queue.add_abort, queue.abort),
    "weights": Command("what the fleet is on", looks.add_weights, looks.weights),
    "jobs": Command("the videos, or meshes, of all workers", looks.add_jobs, looks.jobs),
    "doctor": Command("find out what is wrong, and what to do", doctor.add_doctor, doctor.doctor),
}

EPILOG = f"""\
exit status: 0 done, 1 a worker did not do it or a check found a fault, 2 a bad flag, 3 the router does not answer,
4 it refused. Keys are taken from $SGLANG_D_ROUTER_API_KEY and $SGLANG_D_ROUTER_ADMIN_KEY, or from the files that
$SGLANG_D_ROUTER_API_KEY_FILE and $SGLANG_D_ROUTER_ADMIN_KEY_FILE name. See also {PROGRAM} --help.
"""


def parser_of(name: str) -> Parser:
    """Give the parser of a command."""
    command = COMMANDS[name]
    parser = Parser(name, f"{command.meaning[0].upper()}{command.meaning[1:]}.", epilog=EPILOG)
    command.add(parser)
    add_common(parser)
    return parser


def run(name: str, argv: Sequence[str]) -> int:
    """Run a command against the router that its flags name, and give the exit status.

    Raises:
        BadSetting: one of its flags is bad.
    """
    chosen = parser_of(name).parse(argv)
    screen = Screen(as_json=chosen.as_json)
    with connect(chosen) as client:
        try:
            return COMMANDS[name].act(client, chosen, screen)
        except Unreachable as error:
            return _failed(f"no answer from {client.url}: {cause(error)}", "unreachable", UNREACHABLE, screen)
        except Refused as error:
            wanted = key_wanted(error)
            return _failed(f"{error}; {wanted}" if wanted else str(error), error.code, REFUSED, screen)
        except ClientError as error:
            return _failed(str(error), "failed", FAILED, screen)


def _failed(sentence: str, code: str, status: int, screen: Screen) -> int:
    if screen.as_json:
        screen.document({"error": sentence, "code": code})
    print(f"{PROGRAM}: {printable(sentence)}", file=sys.stderr)
    return status
