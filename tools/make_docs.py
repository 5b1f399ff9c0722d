"""Fill the tables in docs/ that are made from the code; with --check, only tell whether they are up to date.

A page holds `<!-- generated: NAME -->` and `<!-- end -->`; what stands between them is replaced by the table NAME.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import api_docs
from sglang_diffusion_routing import errors, metrics
from sglang_diffusion_routing.core.state import TABLE, Phase
from sglang_diffusion_routing.launchers import config as launcher
from sglang_diffusion_routing.settings.declared import Setting, declared, show

DOCS = Path(__file__).parent.parent / "docs"
REGION = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def settings_tables() -> Iterator[str]:
    """Give a table for each group of settings."""
    for group, members in itertools.groupby(declared(), key=lambda setting: setting.group):
        yield f"## {group}\n"
        yield "| Flag | Value | Default | Meaning |\n|---|---|---|---|"
        yield from (_setting(setting) for setting in members)
        yield ""


def _setting(setting: Setting) -> str:
    value = setting.kind.replace("|", "\\|") + (f", {setting.bounds}" if setting.bounds else "")
    return f"| `{setting.flag}` | {value} | {setting.default} | {setting.meaning} |"


_AT_START = (errors.BadSetting, errors.StateUnusable, errors.WorkersNotReady)
"""A router with one of these does not start, and no client sees it."""


def errors_table() -> Iterator[str]:
    """Give a row for each error that a client can see, by status and code."""
    seen = {
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.RouterError) and not issubclass(error, _AT_START)
    } - {errors.RouterError}
    yield "| Status | Code | Caused by | Worth a retry | Meaning |\n|---|---|---|---|---|"
    for error in sorted(seen, key=lambda error: (error.http_status, error.code)):
        retry = "yes" if error.retryable else "no"
        yield f"| {error.http_status} | `{error.code}` | {error.source} | {retry} | {_meaning(error)} |"


def _meaning(error: type[errors.RouterError]) -> str:
    """Give the first line of a docstring, or the words of the name."""
    own = vars(error).get("__doc__")
    if own:
        return own.strip().splitlines()[0].rstrip(".")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", error.__name__).capitalize()


def metrics_table() -> Iterator[str]:
    """Give a row for each metric."""
    yield "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|"
    for metric in vars(metrics).values():
        if isinstance(metric, metrics.Declared):
            labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
            yield f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.meaning} |"


def states_table() -> Iterator[str]:
    """Give a row for each move of a worker's state."""
    yield "| State | When | Becomes | The order is | Also |\n|---|---|---|---|---|"
    for phase, moves in TABLE.items():
        for trigger, move in moves.items():
            target = (move.state, move.intent)
            becomes = "stays" if target == phase else _phase(target)
            also = ", ".join(effect.value for effect in move.effects)
            yield f"| {_phase(phase)} | {trigger.value} | {becomes} | {move.fate.value} | {also} |"


def _phase(phase: Phase) -> str:
    state, intent = phase
    return state.value if intent is None else f"{state.value} ({intent.name.lower()})"


def launcher_table() -> Iterator[str]:
    """Give a row for each key of a launcher file."""
    yield "| Key | Default | Backends | Meaning |\n|---|---|---|---|"
    for field, name in launcher.names().items():
        declaration = launcher.LauncherConfig.model_fields[field]
        default = "required" if declaration.is_required() else _written(field, declaration.default)
        backends = ", ".join(launcher.backends_of(field)) or "all"
        yield f"| `{name}` | {default} | {backends} | {declaration.description} |"


def _written(field: str, default: object) -> str:
    """Write a default as a launcher file would have it."""
    if default in (None, {}, ()):
        return "none"
    return show(field, default)


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "settings": settings_tables,
    "errors": errors_table,
    "metrics": metrics_table,
    "worker-states": states_table,
    "launcher": launcher_table,
    "work-routes": api_docs.work_table,
    "control-routes": api_docs.control_routes,
    "shapes": api_docs.shapes,
}


def filled(page: str) -> str:
    """Give a page with every table made anew.

    Raises:
        KeyError: it asks for a table that does not exist.
    """

    def table(region: re.Match[str]) -> str:
        return region[1] + "\n" + "\n".join(TABLES[region["name"]]()).rstrip("\n") + "\n\n"

    return REGION.sub(table, page)


def main() -> int:
    """Write or check every page; give 1 when a checked one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page differs")
    check = parser.parse_args().check
    status = 0
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        fresh = filled(page)
        if fresh == page:
            continue
        if check:
            print(f"docs/{path.name} differs from the code; run `make docs`")
            status = 1
        else:
            path.write_text(fresh, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
