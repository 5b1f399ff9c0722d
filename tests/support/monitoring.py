"""What examples/monitoring/ says of our metrics."""

import re
from pathlib import Path

from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.metrics.kinds import Declared, Kind

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "monitoring"
RULES = FOLDER / "rules.yaml"
RULES_TESTS = FOLDER / "rules-tests.yaml"
DASHBOARD = FOLDER / "grafana-dashboard.json"

DECLARED = {value.name for value in vars(metrics).values() if isinstance(value, Declared)}
WRITTEN = {
    name: value.name
    for value in vars(metrics).values()
    if isinstance(value, Declared)
    for name in (
        [f"{value.name}{part}" for part in ("_bucket", "_count", "_sum")]
        if value.kind is Kind.HISTOGRAM
        else [value.name]
    )
}
"""By the name that a scrape shows: the name that was declared."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def named(expressions: list[str]) -> set[str]:
    """Give the names of our metrics in these expressions, as a scrape shows them; what rules record is left out."""
    words = {word for expression in expressions for word in _NAME.findall(expression)}
    return {word for word in words if word.startswith("sgld_router_")}
