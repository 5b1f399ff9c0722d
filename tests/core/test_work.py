"""Work, leases and tickets."""

import pytest

from core.fleet import Asker, url, worker_id
from sglang_diffusion_routing.core.work import Lease, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core


def test_a_lease_is_live_and_held_by_nobody_when_it_begins() -> None:
    worker, spec = Worker(worker_id("a"), url("a"), 1, registered_s=0.0), WorkSpec()
    lease = Lease(7, worker, spec, granted_s=2.0, queued_s=0.5)
    assert (lease.lease_id, lease.worker, lease.spec, lease.granted_s, lease.queued_s) == (7, worker, spec, 2.0, 0.5)
    assert (lease.live, lease.holder) == (True, None)


def test_a_ticket_waits_when_it_begins() -> None:
    spec = WorkSpec()
    asker = Asker(spec)
    ticket = Ticket(spec, asker, enqueued_s=1.0, sequence=3)
    assert (ticket.spec, ticket.waiter, ticket.enqueued_s, ticket.sequence) == (spec, asker, 1.0, 3)
    assert ticket.waiting


def test_only_complete_replies_come_before_the_rest() -> None:
    assert [result for result in Result if result <= Result.SERVER_ERROR] == [Result.OK, Result.SERVER_ERROR]
