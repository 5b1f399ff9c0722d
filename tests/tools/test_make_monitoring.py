"""The dashboard for Grafana, and what makes it."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client import ProcessCollector

from support.monitoring import DASHBOARD, DECLARED, RULES, WRITTEN, named
from support.promtool import needs_promtool, promtool

pytestmark = pytest.mark.core

Load = Callable[[str], ModuleType]

NOT_SHOWN = {"sgld_router_thumbnails_total": "says nothing of traffic, and is off by default"}
"""Metrics that have no panel, with the reason."""


@pytest.fixture
def tool(load: Load) -> ModuleType:
    return load("make_monitoring")


@pytest.fixture
def panels(tool: ModuleType) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tool.dashboard()["panels"]
    return found


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["make_monitoring.py", *words])
    status: int = tool.main()
    return status


def test_the_file_is_what_is_made(tool: ModuleType) -> None:
    assert DASHBOARD.read_text(encoding="utf-8") == tool.written()


def test_a_check_tells_a_file_that_differs_and_leaves_it(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dashboard.json"
    monkeypatch.setattr(tool, "DASHBOARD", path)
    assert run(tool, monkeypatch) == 0
    assert run(tool, monkeypatch, "--check") == 0
    path.write_text("{}")
    assert run(tool, monkeypatch, "--check") == 1
    assert "make docs" in capsys.readouterr().out
    assert path.read_text() == "{}"


def test_every_metric_has_a_panel_or_a_reason_for_none(panels: list[dict[str, Any]]) -> None:
    shown = {WRITTEN[name] for name in named(expressions(panels))}
    assert DECLARED - shown == set(NOT_SHOWN)


def test_dashboard_and_rules_name_what_there_is(panels: list[dict[str, Any]]) -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert named([*expressions(panels), *asked]) <= set(WRITTEN)
    there = {family.name for family in ProcessCollector(registry=None).collect()} | {"process_cpu_seconds_total"}
    wanted = set(re.findall(r"process_\w+", " ".join([*expressions(panels), *asked])))
    assert wanted <= there, wanted - there


def test_every_panel_is_a_question_to_the_chosen_source_and_says_what_it_means(panels: list[dict[str, Any]]) -> None:
    drawn = [panel for panel in panels if panel["type"] != "row"]
    for panel in drawn:
        assert len(panel["description"]) > 8, panel["title"]
        assert panel["targets"], panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["title"] for panel in drawn}) == len(drawn) > 40


def test_panels_lie_beside_each_other_and_within_the_page(panels: list[dict[str, Any]]) -> None:
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))


def test_every_query_asks_for_the_chosen_routers_alone(panels: list[dict[str, Any]]) -> None:
    for expression in expressions(panels):
        selectors = re.findall(r"\{([^}]*)\}", expression)
        assert selectors, expression
        assert all(selector.startswith('job=~"$job",instance=~"$instance"') for selector in selectors), expression


def test_every_variable_is_declared(tool: ModuleType) -> None:
    page = tool.dashboard()
    declared = {variable["name"] for variable in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(page)))
    assert used - {"__rate_interval", "__all", "__auto"} == declared


@needs_promtool
def test_promtool_understands_every_query(panels: list[dict[str, Any]], tmp_path: Path) -> None:
    chosen = {"$job": ".*", "$instance": ".*", "$route": ".*", "$worker": ".*", "$__rate_interval": "5m"}
    rules = []
    for number, expression in enumerate(expressions(panels)):
        for name, value in chosen.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"query:{number}", "expr": expression})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)
