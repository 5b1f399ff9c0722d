"""A scrape of a real router under load, read as Prometheus reads it."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.client import ask, request
from support.deadlines import eventually
from support.monitoring import DECLARED, WRITTEN
from support.promtool import needs_promtool, promtool
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

IMAGE = b'{"prompt":"a boat","size":"64x64","num_inference_steps":1,"seed":1}'
REQUESTS = 60

Totals = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def router() -> Iterator[RouterProcess]:
    """A router over two workers; one of them has just been lost."""
    with SimInThread() as stays, SimInThread() as goes, RouterProcess([stays.url, goes.url]) as router:
        router.wait_until_healthy(2)
        generate(router)
        goes.crash()
        eventually(router.statuses, lambda statuses: statuses[goes.url] == "quarantined")
        generate(router)
        router.wait_until_idle()
        yield router


def generate(router: RouterProcess) -> None:
    """Send work from eight threads, and scrape while it runs."""
    post = request(b"POST", b"/v1/images/generations", b"Content-Type: application/json", body=IMAGE)
    with ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(ask, router.port, post) for _ in range(REQUESTS)]
        before: Totals = {}
        while not all(one.done() for one in under_way):
            now = totals(scraped(router))
            assert all(now[key] >= number for key, number in before.items()), "a counter went back"
            before = now
        assert {one.result().status for one in under_way} == {200}


def scrape(router: RouterProcess) -> bytes:
    reply = ask(router.port, request(b"GET", b"/metrics"))
    assert reply.status == 200
    return reply.body


def scraped(router: RouterProcess) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(scrape(router).decode())}


def totals(families: dict[str, Metric]) -> Totals:
    """Give every number that only goes up; a worker that leaves takes its own with it."""
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        if family.type in {"counter", "histogram"} and "worker" not in family.name
        for sample in family.samples
    }


def by(family: Metric, label: str, name: str | None = None) -> dict[str, float]:
    """Add up a family's samples by one label."""
    sums: defaultdict[str, float] = defaultdict(float)
    for sample in family.samples:
        if name is None or sample.name == name:
            sums[sample.labels[label]] += sample.value
    return dict(sums)


@needs_promtool
def test_promtool_finds_no_fault_with_a_scrape(router: RouterProcess) -> None:
    assert promtool("check", "metrics", given=scrape(router)) == ""


def test_a_scrape_has_every_metric_and_none_that_is_not_declared(router: RouterProcess) -> None:
    families = scraped(router)
    ours = {name for name in families if name.startswith("sgld_router_")}
    assert ours == {name.removesuffix("_total") for name in DECLARED}
    assert {sample.name for name in ours for sample in families[name].samples} <= set(WRITTEN)
    assert {"process_cpu_seconds", "process_open_fds", "process_max_fds"} <= set(families)


def test_the_sums_agree(router: RouterProcess) -> None:
    families = scraped(router)
    sent = 2 * REQUESTS
    assert by(families["sgld_router_leases_ended"], "result")["ok"] == sent
    assert by(families["sgld_router_worker_requests"], "outcome")["ok"] == sent
    for metric in ("queue_wait", "time_to_head", "generation", "relay"):
        name = f"sgld_router_{metric}_seconds"
        assert by(families[name], "route", f"{name}_count") == {"images_generations": sent}, metric
    totals = by(families["sgld_router_time_to_head_seconds"], "route", "sgld_router_time_to_head_seconds_sum")
    assert totals["images_generations"] > 0


def test_a_lost_worker_is_seen_in_status_health_and_quarantines(router: RouterProcess) -> None:
    families = scraped(router)
    assert by(families["sgld_router_worker_status"], "status") == {"active": 1, "quarantined": 1}
    assert by(families["sgld_router_worker_health"], "health") == {"healthy": 1, "quarantined": 1}
    [quarantines] = families["sgld_router_quarantines"].samples
    assert quarantines.value == 1


def test_the_loop_is_looked_at(router: RouterProcess) -> None:
    eventually(
        lambda: scraped(router)["sgld_router_event_loop_lag_seconds"].samples,
        lambda samples: next(one.value for one in samples if one.name.endswith("_count")) >= 3,
    )
