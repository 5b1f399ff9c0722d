import random

import pytest
import uvloop

from sglang_diffusion_routing.control.membership import WORKERS_MAX, Membership
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.commands import Command
from sglang_diffusion_routing.core.events import RefitRequested, WorkerRegistered
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import Conflict, InvalidWorkerUrl, TooManyWorkers, UnknownWorker
from sglang_diffusion_routing.schemas import UpdateWorker
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


class Well(WorkerApi):
    """Every worker is well."""

    def __init__(self) -> None:
        self.asked = 0

    async def health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        self.asked += 1
        return Answer(Ended.SUCCEEDED, 200, {})

    async def capability(self, url: WorkerUrl, timeout_s: float) -> Capability | None:
        return Capability(("T2V",), ("m",), learned=True)


class Setting:
    def __init__(self, *allowed: str) -> None:
        self.fleet = RecordingFleet()
        self.api = Well()
        prober = Prober(self.fleet, self.api, interval_s=10.0, timeout_s=1.0, rng=random.Random(0))
        self.membership = Membership(self.fleet, prober, AllowList.parse(allowed), first_probe_limit_s=2.0)


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_a_worker_has_been_probed_when_it_is_registered(setting: Setting) -> None:
    worker = await setting.membership.register("http://127.0.0.1:1")
    assert (worker.status.value, setting.api.asked) == ("active", 1)


async def test_a_name_that_resolves_to_a_forbidden_address_is_refused(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(self: object, host: str, port: int, **_: object) -> list[object]:
        return [(2, 1, 6, "", ("10.0.0.1", port)), (2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(uvloop.Loop, "getaddrinfo", getaddrinfo, raising=True)
    with pytest.raises(InvalidWorkerUrl, match=r"resolves to 169\.254\.169\.254, which is the metadata service"):
        await setting.membership.enlist("http://innocent.example:1")
    assert setting.fleet.events == []


async def test_a_name_that_does_not_resolve_may_join_later(setting: Setting) -> None:
    worker = await setting.membership.enlist("http://nobody.invalid:1")
    assert worker.worker_id == "http://nobody.invalid:1"


@pytest.mark.parametrize(
    ("allowed", "url", "good"),
    [
        ("127.0.0.0/8", "http://127.0.0.1:1", True),
        ("10.0.0.0/8", "http://127.0.0.1:1", False),
        ("gpu.invalid", "http://gpu.invalid:1", True),
        ("127.0.0.0/8", "http://gpu.invalid:1", False),
        ("127.0.0.0/8", "http://localhost:1", True),
    ],
)
async def test_only_allowed_hosts_are_taken_in(allowed: str, url: str, good: bool) -> None:
    setting = Setting(*({allowed, "::1"} if "localhost" in url else {allowed}))
    if good:
        assert (await setting.membership.enlist(url)).worker_id == url
    else:
        with pytest.raises(InvalidWorkerUrl, match="is not on the list of allowed workers"):
            await setting.membership.enlist(url)
        assert setting.fleet.events == []


async def test_there_is_a_limit_to_the_number_of_workers(setting: Setting) -> None:
    for n in range(WORKERS_MAX):
        setting.fleet.pool.handle(WorkerRegistered(WorkerUrl("http", "10.0.0.1", n + 1)), 0.0)
    with pytest.raises(TooManyWorkers):
        await setting.membership.enlist("http://10.0.0.2:1")
    assert (await setting.membership.enlist("http://10.0.0.1:1")).worker_id == "http://10.0.0.1:1"


async def test_an_unknown_worker_is_named(setting: Setting) -> None:
    with pytest.raises(UnknownWorker) as caught:
        setting.membership.find(WorkerId("http://x:1"))
    assert caught.value.facts == {"worker_id": "http://x:1"}


async def test_a_change_sends_an_event_for_each_field_that_is_set(setting: Setting) -> None:
    worker = setting.fleet.join("http://127.0.0.1:1")
    change = UpdateWorker(
        is_dead=True, refresh_video_support=True, state="drained", max_concurrency=None, labels={"b": "2", "a": "1"}
    )
    await setting.membership.update(worker, change)
    assert [type(event).__name__ for event in setting.fleet.events] == [
        "HoldRequested",
        "MaxConcurrencySet",
        "LabelsSet",
        "QuarantineRequested",
        "CapabilityLearned",
    ]
    assert (worker.labels, worker.capability.task_types) == ((("a", "1"), ("b", "2")), ("T2V",))


async def test_active_does_not_call_a_refit_off(setting: Setting) -> None:
    worker = setting.fleet.join("http://127.0.0.1:1")
    setting.fleet.apply(RefitRequested(worker.worker_id, "r", "v1"))
    setting.fleet.events.clear()
    with pytest.raises(Conflict):
        await setting.membership.update(worker, UpdateWorker(state="active", max_concurrency=3))
    assert (setting.fleet.events, worker.max_concurrency) == ([], None)


async def test_a_removal_tells_whether_the_worker_is_gone(setting: Setting) -> None:
    idle = setting.fleet.join("http://127.0.0.1:1")
    assert setting.membership.remove(idle, force=False) is True
    commands: list[Command] = setting.fleet.commands
    assert type(commands[-1]).__name__ == "ForgetWorker"
