"""The rules for Prometheus in examples/monitoring/, and what is said of them."""

import re
from typing import Any

import pytest
import yaml

from support.monitoring import FOLDER, ROOT, RULES, RULES_TESTS
from support.promtool import needs_promtool, promtool

pytestmark = pytest.mark.core

PAGE = ROOT / "docs" / "metrics.md"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def cases_of_alerts() -> dict[str, set[bool]]:
    """Give for each alert whether there is a case in which it fires, and one in which it does not."""
    cases = yaml.safe_load(RULES_TESTS.read_text(encoding="utf-8"))["tests"]
    found: dict[str, set[bool]] = {}
    for case in cases:
        for check in case.get("alert_rule_test", ()):
            found.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    return found


@needs_promtool
def test_the_rules_are_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULES_TESTS)


@needs_promtool
def test_the_configuration_is_one_and_finds_the_rules() -> None:
    assert "rule files found" in promtool("check", "config", FOLDER / "prometheus.yaml")


def test_each_alert_is_tested_to_fire_and_not_to() -> None:
    assert cases_of_alerts() == {alert["alert"]: {True, False} for alert in alerts()}


def test_each_alert_says_how_urgent_it_is_and_where_to_read_on() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}, alert["alert"]
        assert alert["labels"]["component"] == "sglang-d-router", alert["alert"]
        assert alert["annotations"]["runbook"] == f"docs/metrics.md#{alert['alert'].lower()}"


def test_each_alert_has_its_section_and_no_section_is_of_another() -> None:
    sections = re.findall(r"^### (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == [alert["alert"] for alert in alerts()]
