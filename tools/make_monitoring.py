"""Write examples/monitoring/grafana-dashboard.json from grafana.yaml; with --check, only tell whether it is up to date.

Grafana's form has thousands of lines for what is said there in some hundreds: titles, words and queries.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PANELS = Path(__file__).parent / "grafana.yaml"
DASHBOARD = Path(__file__).parent.parent / "examples" / "monitoring" / "grafana-dashboard.json"

COLUMNS = 24
SELECTED = 'job=~"$job",instance=~"$instance"'
"""What `@` stands for in a query."""

Panel = dict[str, Any]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """Give the whole page as Grafana imports it."""
    return {
        "annotations": {"list": []},
        "description": "Traffic, workers, weights and health of sglang-d-router.",
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": list(_panels()),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["sglang", "diffusion", "router"],
        "templating": {"list": [_DATASOURCE, *map(_variable, _VARIABLES)]},
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": "SGLang-Diffusion router",
        "uid": "sglang-d-router",
        "version": 1,
    }


_DATASOURCE = {"label": "Data source", "name": "datasource", "query": "prometheus", "type": "datasource"}
_VARIABLES = (
    ("job", "Job", "label_values(sgld_router_build_info, job)"),
    ("instance", "Router", 'label_values(sgld_router_build_info{job=~"$job"}, instance)'),
    ("route", "Route", f"label_values(sgld_router_requests_total{{{SELECTED}}}, route)"),
    ("worker", "Worker", f"label_values(sgld_router_worker_routable{{{SELECTED}}}, worker)"),
)


def _variable(declared: tuple[str, str, str]) -> dict[str, Any]:
    name, label, query = declared
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": _SOURCE,
        "definition": query,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Lay the panels out from left to right, row by row."""
    number, y = 0, 0
    for row in yaml.safe_load(PANELS.read_text(encoding="utf-8")):
        number += 1
        yield {
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "id": number,
            "panels": [],
            "title": row["row"],
            "type": "row",
        }
        y, x, height = y + 1, 0, 0
        for panel in row["panels"]:
            wide, high = panel.get("width", 8), 4 if panel.get("kind") == "stat" else 8
            if x + wide > COLUMNS:
                y, x, height = y + height, 0, 0
            number += 1
            yield _panel(panel, number, {"h": high, "w": wide, "x": x, "y": y})
            x, height = x + wide, max(height, high)
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    return {
        "datasource": _SOURCE,
        "description": panel["about"],
        "fieldConfig": {"defaults": _look(panel, kind), "overrides": []},
        "gridPos": place,
        "id": number,
        "options": _options(panel, kind),
        "targets": [_target(query, kind, letter) for letter, query in zip("ABCDEF", panel["queries"], strict=False)],
        "title": panel["title"],
        "transformations": _TABLE if kind == "table" else [],
        "type": kind,
    }


def _target(query: dict[str, str], kind: str, letter: str) -> dict[str, Any]:
    is_of_now = kind in {"stat", "table"}
    return {
        "datasource": _SOURCE,
        "expr": query["expr"].replace("@", SELECTED),
        "format": kind if kind in {"table", "heatmap"} else "time_series",
        "instant": is_of_now,
        "legendFormat": query["legend"] or "__auto",
        "range": not is_of_now,
        "refId": letter,
    }


def _look(panel: Panel, kind: str) -> dict[str, Any]:
    look: dict[str, Any] = {"unit": panel.get("unit", "short")}
    if "words" in panel:
        words = {str(number): {"index": number, "text": word} for number, word in enumerate(panel["words"])}
        look["mappings"] = [{"options": words, "type": "value"}]
    if kind == "timeseries":
        is_stacked = panel.get("stacked", False)
        look["min"] = 0
        look["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 30 if is_stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if is_stacked else "none"},
        }
    return look


def _options(panel: Panel, kind: str) -> dict[str, Any]:
    match kind:
        case "stat":
            return {
                "colorMode": "none",
                "graphMode": "none",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                # A legend made of labels is what is to be read.
                "textMode": "name" if "{{" in panel["queries"][0]["legend"] else "value",
            }
        case "heatmap":
            return {"calculate": False, "yAxis": {"unit": "s"}}
        case "table":
            return {"showHeader": True}
        case _:
            return {
                "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


_TABLE = [
    {"id": "merge", "options": {}},
    {"id": "filterFieldsByName", "options": {"include": {"names": ["worker", "status", "health", "version"]}}},
]


def written() -> str:
    """Give the file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or check the file; give 1 when a checked one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file differs")
    if not parser.parse_args().check:
        DASHBOARD.parent.mkdir(exist_ok=True)
        DASHBOARD.write_text(written(), encoding="utf-8")
    elif DASHBOARD.read_text(encoding="utf-8") != written():
        print(f"examples/monitoring/{DASHBOARD.name} differs from tools/make_monitoring.py; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
