"""Serve in this process, for as long as the one that it was started for lives.

`python -m sglang_diffusion_routing.integrations.serving` reads one line of JSON from its standard input, which holds
the settings by their YAML names, and serves until that input ends: it ends with whoever holds the other end, also when
that one is killed.
"""

import difflib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping

from sglang_diffusion_routing import logs
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import LogFormat, Settings, load
from sglang_diffusion_routing.settings.declared import declared

BAD_SETTING = 2
"""Exit status when a setting is unknown or its value bad: as of the command line."""


def read(given: Mapping[str, object]) -> Settings:
    """Give the settings that `given`, then the environment ask for, else the defaults.

    Args:
        given: values by YAML name (`queue_timeout`), as YAML or the command line would have them.

    Raises:
        BadSetting: a name is unknown, or a value malformed or out of bounds.
    """
    field_of = {setting.name: setting.field for setting in declared()}
    for name in given:
        if name not in field_of:
            close = difflib.get_close_matches(name, field_of, n=1)
            raise BadSetting(name, "is no setting of the router" + (f"; did you mean {close[0]}?" if close else ""))
    return load({field_of[name]: value for name, value in plain(given).items()}, os.environ)


def plain(given: Mapping[str, object]) -> dict[str, object]:
    """Give settings as JSON can have them: paths as text."""
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}


def serve(given: Mapping[str, object]) -> int:
    """Serve until a signal ends it, and give the exit status: that of the command line."""
    from sglang_diffusion_routing import app  # a second, which those who only start a process need not wait

    try:
        settings = read(given)
    except BadSetting as error:
        sys.stderr.write(f"sglang-d-router: {error.message}\n")
        return BAD_SETTING
    # Whoever was forked may have inherited a mask, and could then not be asked to end.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    logs.configure(level=settings.effective_log_level, as_json=settings.log_format is LogFormat.JSON)
    return app.serve(settings)


def end_with(descriptor: int) -> None:
    """Have this process end in order, as by SIGTERM, when nobody holds the other end of `descriptor` any more."""
    threading.Thread(target=_end_at_the_end_of, args=(descriptor,), name="lifeline", daemon=True).start()


def _end_at_the_end_of(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Serve as the line on the standard input says."""
    given = json.loads(sys.stdin.buffer.readline() or "{}")
    end_with(sys.stdin.fileno())
    return serve(given)


if __name__ == "__main__":
    raise SystemExit(main())
