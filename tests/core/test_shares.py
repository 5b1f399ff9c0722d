"""Work is divided among tenants by their weights."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.fleet import T2I, Asker, Fleet, worker_id
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.line import Line
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.shares import REMEMBERED, Backlog, Tenants, Turns, parse_weights
from sglang_diffusion_routing.core.work import Needs, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Capability

pytestmark = pytest.mark.core

A, B, C = (WorkSpec(tenant=name) for name in "abc")
IN_ORDER = [name for name in POLICIES if name not in {"least-work", "longest-first"}]


def fleet_of(
    policy: str = "least-request", cap: int = 1, weights: Mapping[str, float] | None = None, workers: str = "w"
) -> Fleet:
    limits = SchedulerLimits(QueueLimits(max_requests=10_000), cap, ramp=False, weights=weights or {})
    fleet = Fleet(limits, policy)
    for name in workers:
        fleet.add(name)
    return fleet


def served(fleet: Fleet, asked: list[Asker]) -> str:
    """End one piece after the other; give the tenants in the order in which they are given a worker."""
    order = ""
    waiting = [asker for asker in asked if asker.waits]
    running = [asker for asker in asked if asker.lease is not None]
    while running:
        fleet.now_s += 1.0
        fleet.end(running.pop(0))
        granted = [asker for asker in waiting if not asker.waits]
        order += "".join(asker.spec.tenant or "-" for asker in granted)
        waiting = [asker for asker in waiting if asker.waits]
        running += granted
    return order


@pytest.mark.parametrize("policy", POLICIES)
def test_a_flood_of_one_tenant_does_not_hold_up_another(policy: str) -> None:
    fleet = fleet_of(policy)
    asked = [fleet.ask(A) for _ in range(8)] + [fleet.ask(B) for _ in range(4)]
    assert served(fleet, asked) == "abababab" + "aaa"


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_parts_of_the_work(policy: str) -> None:
    fleet = fleet_of(policy, weights={"a": 3.0})
    asked = [fleet.ask(A) for _ in range(20)] + [fleet.ask(B) for _ in range(20)]
    assert Counter(served(fleet, asked)[:16]) == {"a": 12, "b": 4}


def test_what_counts_is_work_and_not_the_number_of_requests() -> None:
    fleet = fleet_of()
    videos = [fleet.ask(replace(A, cost_mpx_steps=8.0)) for _ in range(5)]
    images = [fleet.ask(replace(B, cost_mpx_steps=1.0)) for _ in range(24)]
    assert served(fleet, videos + images) == "abbbbbbbb" * 3 + "a"


def test_requests_without_a_name_are_one_tenant() -> None:
    fleet = fleet_of()
    asked = [fleet.ask() for _ in range(4)] + [fleet.ask(A) for _ in range(2)]
    assert served(fleet, asked) == "-a-a-"


def test_with_one_tenant_the_order_is_as_without() -> None:
    for policy in POLICIES:
        costs = [random.Random(7).choice([1.0, 2.0, 5.0]) for _ in range(40)]
        orders = []
        for tenant in ("", "a"):
            fleet = fleet_of(policy, weights={"a": 3.0})
            asked = [fleet.ask(WorkSpec(tenant=tenant, cost_mpx_steps=cost)) for cost in costs]
            began: list[int] = []
            while any(asker.lease is None or asker.lease.live for asker in asked):
                fleet.end(next(asker for asker in asked if asker.lease is not None and asker.lease.live))
                began += [n for n, asker in enumerate(asked) if asker.lease is not None and n not in began]
            orders.append(began)
        assert orders[0] == orders[1]


def test_who_has_waited_for_nothing_has_saved_nothing_up() -> None:
    fleet = fleet_of()
    asked = [fleet.ask(A) for _ in range(20)] + [fleet.ask(B)]
    first = asked[0]
    for _ in range(12):
        fleet.end(first)
        first = next(asker for asker in asked if asker.lease is not None and asker.lease.live)
    late = [fleet.ask(B) for _ in range(4)]
    running = [asker for asker in asked if asker.lease is not None and asker.lease.live]
    assert served(fleet, running + [asker for asker in asked if asker.waits] + late)[:6] == "bababa"


def test_who_has_had_much_owes_nothing_once_nothing_waits() -> None:
    fleet = fleet_of()
    served(fleet, [fleet.ask(replace(A, cost_mpx_steps=500.0)) for _ in range(4)] + [fleet.ask(B)])
    asked = [fleet.ask(A) for _ in range(4)] + [fleet.ask(B) for _ in range(4)]
    assert served(fleet, asked) == "abababb"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tenant_has_its_share_within_each_priority(policy: str) -> None:
    fleet = fleet_of(policy)
    fleet.ask()
    batch = [fleet.ask(spec) for spec in [A] * 3 + [B] * 3]
    urgent = [fleet.ask(replace(spec, priority=8)) for spec in [A] * 3 + [B]]
    running = Asker(WorkSpec())
    running.lease = fleet.scheduler.leases_of(worker_id("w"))[0]
    order = served(fleet, [running, *batch, *urgent])
    assert order[:4] == "abaa"
    assert sorted(order[4:6]) == sorted(order[6:8]) == sorted(order[8:]) == ["a", "b"]


@pytest.mark.parametrize("policy", ["least-work", "least-request"])
def test_a_flood_of_a_higher_priority_does_not_starve_another_tenant(policy: str) -> None:
    """It ages by its own share: its tenant's two pieces are overdue when twice that has been given to each."""
    fleet = fleet_of(policy)
    urgent = [fleet.ask(replace(A, priority=8)) for _ in range(60)]
    batch = [fleet.ask(B) for _ in range(2)]
    order = served(fleet, urgent + batch)
    assert [place for place, tenant in enumerate(order, start=1) if tenant == "b"] == [5, 9]


def test_what_is_overdue_takes_no_turn_from_others_of_its_priority() -> None:
    fleet = fleet_of()
    running = fleet.ask()
    urgent = [fleet.ask(WorkSpec(tenant="u", priority=8, cost_mpx_steps=20.0)) for _ in range(4)]
    batch = [fleet.ask(replace(A, cost_mpx_steps=1.0)) for _ in range(2)]
    order = ""
    while any(asker.waits for asker in batch):
        fleet.end(running)
        running = next(asker for asker in urgent + batch if asker.lease is not None and asker.lease.live)
        order += running.spec.tenant
    assert order == "uaa"
    (lane,) = fleet.scheduler._lanes.all
    assert (lane.lines.turns[0].of("a"), lane.lines.turns[0].of("b")) == (2.0, 0.0)


def test_work_that_a_worker_failed_goes_first_and_is_counted_once() -> None:
    fleet = fleet_of()
    asked = [fleet.ask(spec) for spec in [A, B] * 6]
    retry = fleet.ask(replace(B, cost_mpx_steps=9.0, avoid=frozenset({worker_id("x")})))
    assert served(fleet, [*asked, retry]) == "b" + "ba" * 5 + "b"


def test_a_job_that_goes_at_once_counts_against_what_waits() -> None:
    fleet = fleet_of()
    asked = [fleet.ask(A), *(fleet.ask(spec) for spec in [A] * 4 + [B] * 4)]
    jobs = [fleet.ask(replace(A, creates_job=True)) for _ in range(3)]
    assert served(fleet, [*asked, *jobs]) == "bbbabaaa"


def test_where_workers_do_several_kinds_of_work_a_flood_of_one_does_not_hold_up_the_other() -> None:
    """Images go to both workers, videos to x alone, which is shared between them, whatever y does."""
    fleet = fleet_of(workers="")
    fleet.add("x", Capability(("T2I", "T2V"), ("m",), learned=True))
    fleet.add("y", T2I)
    images = [fleet.ask(replace(A, needs=Needs.IMAGE)) for _ in range(40)]
    videos = [fleet.ask(replace(B, needs=Needs.VIDEO)) for _ in range(9)]

    def next_on(name: str) -> str:
        """The worker ends its piece; give whose is next."""
        fleet.end(next(asker for asker in images + videos if asker.lease and asker.lease.live and asker.got == name))
        (lease,) = fleet.scheduler.leases_of(worker_id(name))
        return lease.spec.tenant

    assert [[next_on(name) for name in "xyyy"] for _ in range(6)] == [[one, "a", "a", "a"] for one in "ababab"]


TENANTS = "abc"
COSTS = st.sampled_from([0.5, 1.0, 3.0, 10.0])


@dataclass
class Account:
    """What a tenant was given, measured from outside."""

    weight: float
    given: float = 0.0
    largest: float = 0.0


@settings(deadline=None)
@given(
    policy=st.sampled_from(list(POLICIES)),
    cap=st.integers(1, 3),
    weights=st.fixed_dictionaries(dict.fromkeys(TENANTS, st.sampled_from([0.5, 1.0, 3.0]))),
    costs=st.lists(st.tuples(COSTS, COSTS, COSTS), min_size=12, max_size=60),
)
def test_of_tenants_that_always_wait_none_is_ahead_of_its_share_by_more_than_a_piece(
    policy: str, cap: int, weights: dict[str, float], costs: list[tuple[float, float, float]]
) -> None:
    fleet = fleet_of(policy, cap, weights)
    running = [fleet.ask() for _ in range(cap)]
    accounts = {name: Account(weight) for name, weight in weights.items()}
    waiting: dict[str, list[Asker]] = defaultdict(list)
    for row in costs:
        for name, cost in zip(TENANTS, row, strict=True):
            waiting[name].append(fleet.ask(WorkSpec(tenant=name, cost_mpx_steps=cost)))
            accounts[name].largest = max(accounts[name].largest, cost)
    while all(waiting.values()):
        fleet.end(running.pop(0))
        for name, askers in waiting.items():
            for asker in [asker for asker in askers if not asker.waits]:
                askers.remove(asker)
                running.append(asker)
                accounts[name].given += asker.spec.cost_mpx_steps
        assert len(running) == cap, "a worker with room and work that waits"
        for one in accounts.values():
            for other in accounts.values():
                lead = one.given / one.weight - other.given / other.weight
                assert lead <= one.largest / one.weight + 1e-6


@dataclass
class Wait:
    """A request that waits, and what arrival order within its tenant's share would have given out before it."""

    asker: Asker
    since: float
    share: float


@dataclass
class Clock:
    """The work given out, divided by the weights of those who waited for it, measured from outside."""

    weights: Mapping[str, float]
    now: float = 0.0
    waits: dict[str, list[Wait]] = field(default_factory=lambda: defaultdict(list))

    def came(self, asker: Asker) -> None:
        name = asker.spec.tenant
        ahead = sum(wait.asker.spec.cost_mpx_steps for wait in self.waits[name])
        share = (ahead + asker.spec.cost_mpx_steps) / self.weights[name]
        self.waits[name].append(Wait(asker, self.now, share))

    def went(self) -> list[Wait]:
        gone = [wait for waits in self.waits.values() for wait in waits if not wait.asker.waits]
        for wait in gone:
            total = sum(self.weights[name] for name, waits in self.waits.items() if waits)
            self.now += wait.asker.spec.cost_mpx_steps / total
            self.waits[wait.asker.spec.tenant].remove(wait)
        return gone


WEIGHTS = st.fixed_dictionaries(dict.fromkeys(TENANTS, st.sampled_from([0.5, 1.0, 3.0])))
ROUNDS = 150


@settings(deadline=None, max_examples=40)
@given(
    policy=st.sampled_from([name for name in POLICIES if name != "longest-first"]),
    weights=WEIGHTS,
    depth=st.integers(1, 4),
    urgent=st.sampled_from([0, 8]),
    every=st.integers(1, 50),
    long=st.sampled_from([1.0, 10.0]),
)
def test_nobody_waits_for_more_than_twice_what_arrival_order_in_its_tenant_s_share_would_give(
    policy: str, weights: dict[str, float], depth: int, urgent: int, every: int, long: float
) -> None:
    """Whoever ends a piece sends another one: of tenant a these are more urgent than all others, or not."""
    fleet, clock, numbers = fleet_of(policy, weights=weights), Clock(weights), count()

    def send(name: str) -> None:
        # What is urgent would starve all others for ever, and what is long would what is short.
        cost, priority = (long, urgent) if name == "a" else (long if next(numbers) % every else 0.5, 0)
        asker = fleet.ask(WorkSpec(tenant=name, cost_mpx_steps=cost, priority=priority))
        assert asker.waits
        clock.came(asker)

    running = fleet.ask(A)
    for name in TENANTS * depth:
        send(name)
    for _ in range(ROUNDS):
        fleet.end(running)
        (gone,) = clock.went()
        running = gone.asker
        send(gone.asker.spec.tenant)
        for wait in [gone, *(wait for waits in clock.waits.values() for wait in waits)]:
            slack = 3 * long / weights[wait.asker.spec.tenant] + long / min(weights.values())
            assert clock.now - wait.since <= 2 * wait.share + slack


def test_work_that_waits_for_different_things_takes_turns_too() -> None:
    fleet = fleet_of()
    current = replace(A, min_version="0")
    asked = [fleet.ask(spec) for spec in [A] + [current] * 4 + [B] * 4]
    assert served(fleet, asked) == "abababab"


def test_turns_that_are_no_longer_counted_are_those_of_who_had_least() -> None:
    turns = Turns(Tenants())
    for number in range(REMEMBERED):
        turns.give(f"t{number}", float(number + 1), in_turn=False)
    turns.give("new", 1.0, in_turn=False)
    assert [turns.of(name) for name in ("t0", "new", f"t{REMEMBERED - 1}")] == [0.0, 1.0, float(REMEMBERED)]


def test_what_goes_before_its_turn_takes_nobody_else_s() -> None:
    turns = Turns(Tenants({"b": 2.0}))
    turns.give("a", 3.0)
    turns.give("b", 8.0, in_turn=False)
    assert (turns.of("a"), turns.of("b"), turns.of("c")) == (3.0, 4.0, 0.0)
    turns.give("a", 1.0)
    assert (turns.of("a"), turns.of("b"), turns.of("c")) == (4.0, 4.0, 3.0)


def test_a_backlog_is_known_by_priority() -> None:
    backlog = Backlog(1.0)
    for level, cost in ((0, 5.0), (4, 2.0), (4, 1.0), (9, 7.0)):
        backlog.add(level, cost)
    backlog.remove(4, 1.0)
    assert (backlog.count, [backlog.ahead_of(level) for level in (0, 4, 8, 9)]) == (3, [14.0, 9.0, 7.0, 7.0])


def test_weights_are_read_and_a_name_may_hold_an_equals_sign() -> None:
    assert parse_weights(["a=3", "b c=0.5", "x=y=1e2"]) == {"a": 3.0, "b c": 0.5, "x=y": 100.0}


def test_several_is_more_than_one_name() -> None:
    tenants = Tenants({"a": 2.0})
    seen = []
    for name in ("a", "a", "b", "a"):
        tenants.see(name)
        seen.append(tenants.several)
    assert (seen, tenants.weight_of("a"), tenants.weight_of("b")) == ([False, False, True, True], 2.0, 1.0)


GIVEN = st.lists(st.tuples(st.sampled_from("abcde"), COSTS, st.booleans()), max_size=30)


@given(GIVEN, st.permutations("abcdef"))
def test_the_first_is_one_of_those_whose_next_piece_begins_first(
    given_out: list[tuple[str, float, bool]], tenants: list[str]
) -> None:
    turns = Turns(Tenants({"b": 3.0}))
    for tenant, cost, in_turn in given_out:
        turns.give(tenant, cost, in_turn=in_turn)
    first = turns.first(tenants)
    assert first == min(tenants, key=turns.of)
    assert turns.first([]) is None


def test_a_release_asks_a_thousand_tenants_for_their_turns_and_not_for_their_tickets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = fleet_of()
    running = fleet.ask()
    asked = [fleet.ask(WorkSpec(tenant=f"t{number}")) for number in range(1_000)]
    fleet.end(running)
    running = next(asker for asker in asked if not asker.waits)
    looked: list[Ticket] = []
    head = Line.head

    def noting(line: Line, clock: float) -> Ticket:
        looked.append(head(line, clock))
        return looked[-1]

    monkeypatch.setattr(Line, "head", noting)
    fleet.end(running)
    assert len(looked) == 1
