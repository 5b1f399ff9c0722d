"""Take the place of the router that miles starts, by the names of its arguments.

miles (https://github.com/radixark/miles, and miles_diffusion beside it) starts `miles.router.router.run_router(args)`
in a process of its own, hands it all its arguments, and has each engine register itself by `POST /add_worker`.
"""

import multiprocessing
import sys
from collections.abc import Mapping
from typing import Any

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.integrations import serving

_OURS = {
    "sglang_router_ip": "host",
    "sglang_router_port": "port",
    "miles_router_timeout": "timeout",
    "rollout_health_check_interval": "health_check_interval",
    "miles_router_health_check_failure_threshold": "health_check_failure_threshold",
}
"""What miles' arguments call our settings."""

_OURS_IN_CONFIG = {
    "host": "host",
    "port": "port",
    "timeout": "timeout",
    "health_check_interval": "health_check_interval",
    "health_check_failure_threshold": "health_check_failure_threshold",
    "routing_algorithm": "routing_algorithm",
    "worker_urls": "worker_urls",
    "verbose": "verbose",
}
"""What miles' later `MilesRouterConfig`, and the arguments of the first sglang-diffusion-routing, call them."""

_MIDDLEWARE = "miles_router_middleware_paths"


def run_router(args: Any) -> None:
    """Serve as miles' `run_router` does: in this process, until SIGTERM, SIGINT, or the end of its parent.

    Args:
        args: miles' arguments (`argparse.Namespace`), its `MilesRouterConfig`, or whatever else has them as attributes.
            `sglang_router_ip` and `sglang_router_port` say where to listen.

    Raises:
        SystemExit: it could not serve; the status is that of `sglang-d-router`, and its sentence is on standard error.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        # miles' process is a daemon of its actor, and nobody ends it when that is killed.
        serving.end_with(parent.sentinel)
    try:
        given = settings_of(args)
    except BadSetting as error:
        sys.stderr.write(f"sglang-d-router: {error.message}\n")
        raise SystemExit(serving.BAD_SETTING) from None
    status = serving.serve(given)
    if status:
        raise SystemExit(status)


def settings_of(args: Any) -> dict[str, object]:
    """Give the settings, by YAML name, that miles' arguments ask for.

    `miles_router_max_connections` asks for nothing: it sizes the pool of miles' router, and here work waits in the
    router's own queue.

    Raises:
        BadSetting: they ask for what this router has not: middleware.
    """
    theirs: Mapping[str, object] = vars(args)
    if theirs.get(_MIDDLEWARE):
        raise BadSetting("--miles-router-middleware-paths", "is not possible: this router runs no code of others")
    # All arguments of a trainer have names like "timeout" too, and they mean other things there.
    names = _OURS if _OURS.keys() & theirs.keys() else _OURS_IN_CONFIG
    given = {ours: theirs[name] for name, ours in names.items() if theirs.get(name) is not None}
    if isinstance(host := given.get("host"), str):
        given["host"] = host.strip("[]")
    # Its trainer gives each engine its weights, and its sleep, without the router.
    return {"hands_off": True, **given}
