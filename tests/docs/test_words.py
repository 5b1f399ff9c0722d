"""Every flag, route, metric, error code, setting and command that the pages name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.api.app import document
from sglang_diffusion_routing.cli.remote import options
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.proxy.routes import WORK, Kind, route
from sglang_diffusion_routing.settings.declared import declared
from sglang_diffusion_routing.settings.sources import CLIENTS_ENV, CONFIG_ENV
from sglang_diffusion_routing.sim.app import create_app
from sglang_diffusion_routing.sim.settings import SimSettings
from support.pages import PAGES, ROOT, blocks, prose
from support.printed import CODES, TARGETS, look_at_ours, our_flags

pytestmark = pytest.mark.core

FLAGS = our_flags()
FOREIGN_FLAGS = {
    "the engine": {
        "--adapter", "--dit-cpu-offload", "--enable-trace", "--master-port", "--model-path", "--num-gpus",
        "--otlp-traces-endpoint", "--scheduler-port", "--served-model-name", "--sleep-on-idle", "--strict-ports",
        "--warmup-resolutions",
    },
    "Slurm": {"--array", "--exact", "--gpus", "--gpus-per-node", "--gpus-per-task", "--no-kill", "--nodes", "--signal"},
    "the SGLang model gateway": {
        "--health-check-interval-secs", "--health-failure-threshold", "--max-concurrent-requests", "--queue-size",
        "--queue-timeout-secs", "--request-timeout-secs", "--retry-max-retries", "--service-discovery",
    },
    "curl": {"--compressed", "--insecure", "--cacert"},
    "miles": {"--sglang-router-ip", "--sglang-router-port", "--use-miles-router"},
    "make's tests, and its scripts": {"--device", "--check", "--smg", "--rounds", "--json"},
}  # fmt: skip
ENVIRON = {setting.env for setting in declared()} | CLIENTS_ENV | {CONFIG_ENV, options.API_KEY, options.ADMIN_KEY}
KUBERNETES_ENVIRON = {"SGLANG_D_ROUTER_SERVICE_HOST"}
UNDOCUMENTED = {"GET /docs", "GET /openapi.json", "GET /dashboard", "GET /sim/state", "POST /sim/faults"}
"""Served, and in no OpenAPI document."""


def spans(page: Path) -> Iterator[str]:
    """Give what stands in backticks in the running text."""
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page)):
        yield span.replace("\\|", "|")


def text_of(page: Path) -> str:
    """Give a page without what is another program's."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.note == "not ours":
            text = text.replace(block.text, "")
    return text


by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_every_flag_is_one(page: Path) -> None:
    known = FLAGS.union(*FOREIGN_FLAGS.values())
    named = {flag for span in spans(page) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+(?![\w*.]|-)", span)}
    assert named - known == set()


@by_page
def test_every_command_of_ours_in_the_text_takes_its_words(page: Path, tmp_path: Path) -> None:
    for span in spans(page):
        words = span.split()
        if words[:1] == ["sglang-d-router"] and not re.search(r"\.\.\.|[A-Z]{2}|\|", span):
            # A command that is only named may lack what it needs.
            if len(words) == 2 and not words[1].startswith("-"):
                words.append("--help")
            look_at_ours(words[1:], tmp_path)
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in TARGETS, span


DOCUMENT = document()["paths"]
SIMULATED = create_app(SimSettings()).openapi()["paths"]


def is_served(method: str, path: str) -> bool:
    """Tell whether the router, or a worker behind it, has such a route."""
    path = path.partition("?")[0]
    found = route(method.encode(), path.encode(), None)
    if (method.encode(), path.encode()) in WORK or found.kind is Kind.JOB:
        return True
    served = DOCUMENT if found.kind is Kind.CONTROL else SIMULATED
    return any(method.lower() in members and fits(shape, path) for shape, members in served.items())


def fits(shape: str, path: str) -> bool:
    """Tell whether a path is of this shape; a worker's id is its URL, with slashes."""
    pattern = re.sub(r"\\{worker\w*(:path)?\\}", ".+", re.escape(shape).replace(":path", ""))
    return re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", pattern), path) is not None


@by_page
def test_every_route_is_served(page: Path) -> None:
    named = {
        (method, path)
        for span in spans(page)
        for methods, path in re.findall(r"^((?:(?:GET|POST|PUT|DELETE)(?:, |/| )?)+)(/[^\s,`]*)$", span)
        for method in re.findall(r"[A-Z]+", methods)
    }
    missing = {f"{method} {path}" for method, path in named if not is_served(method, path)}
    assert missing - UNDOCUMENTED == set()


METRICS = {metric.name for metric in vars(metrics).values() if isinstance(metric, metrics.Declared)}


@by_page
def test_every_metric_is_declared(page: Path) -> None:
    named = set(re.findall(r"\bsgld_router_[a-z_]+[a-z]\b(?!\*)", text_of(page)))
    assert {name for name in named if not {name, re.sub("_(bucket|sum|count)$", "", name)} & METRICS} == set()


@by_page
def test_every_variable_is_read(page: Path) -> None:
    assert set(re.findall(r"\bSGLANG_D_ROUTER_[A-Z_]+[A-Z]\b", text_of(page))) - ENVIRON - KUBERNETES_ENVIRON == set()


@by_page
def test_every_error_code_is_one(page: Path) -> None:
    named = re.findall(r"\b(?:4\d\d|5\d\d) `([a-z_]+)`", text_of(page))
    assert set(named) - CODES == set()


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "cli.md"
    assert not is_served("GET", "/worker")
    assert not is_served("PATCH", "/workers/x")
    assert is_served("DELETE", "/workers/http://a:1")
    assert list(spans(page))
    with pytest.raises(BadSetting):
        look_at_ours(["workers", "drian", "x"], tmp_path)
