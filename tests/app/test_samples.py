from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.app.samples import reader
from sglang_diffusion_routing.core.events import QuarantineRequested
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.http1.replay import Spools
from sglang_diffusion_routing.metrics import Declared
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from support.runtime import runtime


class Client:
    def granted(self, lease: Lease) -> None: ...
    def refused(self, error: Exception) -> None: ...


async def test_every_declared_metric_has_a_sample_and_labels_of_the_declared_number() -> None:
    async with runtime() as run:
        fleet = run.fleet
        fleet.join("http://a:1")
        fleet.apply(QuarantineRequested(fleet.join("http://b:1").worker_id))
        lease = fleet.acquire(WorkSpec(), Client())
        assert isinstance(lease, Lease)
        fleet.release(lease, Result.OK, 200)
        counters = DataPlaneCounters()
        counters.requests["rollout"][2] = 5
        counters.requests["rollout"][0] = 1
        counters.refusals["queue_full"] = 2
        spools = Spools(folder="", max_bytes=0, total_bytes=0)
        samples = reader(fleet, counters, spools, run.api, run.prober, run.sentinels, run.refitter, run.resyncer)()
    assert set(samples) == {value for value in vars(metrics).values() if isinstance(value, Declared)}
    rows = {declared: list(found) for declared, found in samples.items()}
    assert all(len(labels) == len(declared.labels) for declared, found in rows.items() for labels, _ in found)
    assert rows[metrics.REQUESTS] == [(("rollout", "none"), 1), (("rollout", "2xx"), 5)]
    assert sorted(rows[metrics.WORKERS]) == [(("active",), 1), (("quarantined",), 1)]
    assert rows[metrics.WORKER_ROUTABLE] == [(("http://a:1",), True), (("http://b:1",), False)]
    assert (("ok",), 1) in rows[metrics.LEASES_ENDED]
    assert metrics.render(samples)
