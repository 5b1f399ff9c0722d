"""What every command against a running router takes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sglang_diffusion_routing.client import Client, ClientError, Refused, Retry
from sglang_diffusion_routing.client.settings import DEFAULT_URL
from sglang_diffusion_routing.errors import BadSetting

URL = "SGLANG_D_ROUTER_URL"
API_KEY = "SGLANG_D_ROUTER_API_KEY"
ADMIN_KEY = "SGLANG_D_ROUTER_ADMIN_KEY"


def add_common(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add the flags that say which router is meant, and how to show what it says.

    Args:
        again: they may stand behind an action as well as before it, where what was said before it holds.
    """

    def default(value: object) -> object:
        return argparse.SUPPRESS if again else value

    common = parser.add_argument_group("the router")
    common.add_argument(
        "--url", metavar="URL", default=default(None), help=f"its address (default ${URL}, else {DEFAULT_URL})"
    )
    common.add_argument(
        "--timeout", type=_seconds, default=default(None), metavar="S", help="seconds to wait (default: for ever)"
    )
    common.add_argument("--ca-file", metavar="FILE", default=default(None), help="certificates to trust")
    common.add_argument(
        "--json", action="store_true", dest="as_json", default=default(False), help="give what it says as JSON"
    )


def connect(chosen: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Client:
    """Give a client of the router that is meant; keys come from the environment, for flags are seen by everybody."""
    return Client(
        chosen.url or environ.get(URL) or DEFAULT_URL,
        api_key=key_in(environ, API_KEY),
        admin_key=key_in(environ, ADMIN_KEY),
        timeout_s=chosen.timeout,
        connect_timeout_s=5.0,
        ca_file=chosen.ca_file,
        retry=Retry(attempts=1),
    )


def key_in(environ: Mapping[str, str], name: str) -> str | None:
    """Give the key that a variable has, or the file that `name`_FILE names; of several, as a router has, the first.

    Raises:
        BadSetting: the file cannot be read.
    """
    text, file = environ.get(name, ""), environ.get(name + "_FILE")
    if not text and file:
        try:
            lines = Path(file).read_text(encoding="latin-1").splitlines()
        except OSError as error:
            raise BadSetting(f"{name}_FILE {file}", f"cannot be read: {error.strerror or error}") from None
        text = " ".join(line for line in lines if not line.lstrip().startswith("#"))
    return next(iter(text.replace(",", " ").split()), None)


def cause(error: ClientError) -> str:
    """Say in a few words why there was no answer."""
    reason = error.__cause__
    if reason is None:
        return str(error)
    return re.sub(r"^\[Errno -?\d+\] ", "", str(reason)) or type(reason).__name__


def key_wanted(error: Refused) -> str:
    """Say from where a command takes the key that the router asks for; empty if it asks for none."""
    if error.code in {"key_missing", "key_unknown"}:
        return f"set ${API_KEY}, or ${ADMIN_KEY}"
    return f"set ${ADMIN_KEY}" if error.code == "admin_key_needed" else ""


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text!r}")
    return seconds
