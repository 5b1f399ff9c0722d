"""Which of two orders that wait behind a command is carried out."""

import itertools

import pytest

from sglang_diffusion_routing.core.orders import Precedence, joined, precedence
from sglang_diffusion_routing.core.state import Trigger
from sglang_diffusion_routing.core.worker import Order, RequestId

pytestmark = pytest.mark.core

HOLD, REFIT, SLEEP, REMOVE, WAKE = Trigger.HOLD, Trigger.REFIT, Trigger.SLEEP, Trigger.REMOVE, Trigger.WAKE

# By the waiting order and the new one; what is not here yields.
REPLACES = {
    (HOLD, REFIT),
    (HOLD, SLEEP),
    (HOLD, REMOVE),
    (HOLD, WAKE),
    (REFIT, SLEEP),
    (REFIT, REMOVE),
    (REFIT, WAKE),
    (SLEEP, REMOVE),
    (SLEEP, WAKE),
    (WAKE, HOLD),
    (WAKE, REFIT),
    (WAKE, SLEEP),
    (WAKE, REMOVE),
}


@pytest.mark.parametrize(("waiting", "new"), [*itertools.product((HOLD, REFIT, SLEEP, REMOVE, WAKE), repeat=2)])
def test_a_removal_beats_everything_waking_and_intents_undo_each_other_and_the_stronger_intent_stays(
    waiting: Trigger, new: Trigger
) -> None:
    if waiting is new:
        expected = Precedence.JOINS
    else:
        expected = Precedence.REPLACES if (waiting, new) in REPLACES else Precedence.YIELDS
    assert precedence(Order(waiting), Order(new)) is expected


def test_another_refit_does_not_join_one_that_waits() -> None:
    assert precedence(Order(REFIT, refit_id="r1"), Order(REFIT, refit_id="r2")) is Precedence.YIELDS


def test_who_joins_is_told_too_and_the_first_orders_terms_stay() -> None:
    first = Order(SLEEP, (RequestId("a"),), drain_limit_s=5.0)
    assert joined(first, Order(SLEEP, (RequestId("b"),), drain_limit_s=9.0)) == Order(
        SLEEP, (RequestId("a"), RequestId("b")), drain_limit_s=5.0
    )
