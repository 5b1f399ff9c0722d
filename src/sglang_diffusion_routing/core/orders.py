"""What becomes of an order that must wait behind a remote command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from sglang_diffusion_routing.core.state import INTENT_OF, Trigger
from sglang_diffusion_routing.core.worker import Order


class Precedence(Enum):
    """What a new order does to the one that waits already."""

    REPLACES = "replaces"
    JOINS = "joins"
    YIELDS = "yields"


def precedence(waiting: Order, new: Order) -> Precedence:
    """Decide between two orders that wait behind the same command.

    A removal beats everything; otherwise waking and an intent undo each other, so the later one counts, and
    of two intents the stronger does.
    """
    if waiting.trigger is new.trigger:
        same = waiting.refit_id == new.refit_id
        return Precedence.JOINS if same else Precedence.YIELDS
    if waiting.trigger is Trigger.REMOVE:
        return Precedence.YIELDS
    if Trigger.WAKE in (waiting.trigger, new.trigger):
        return Precedence.REPLACES
    return Precedence.REPLACES if INTENT_OF[new.trigger] > INTENT_OF[waiting.trigger] else Precedence.YIELDS


def joined(order: Order, other: Order) -> Order:
    """Give `order` with the other's requests added."""
    return replace(order, requests=order.requests + other.requests)


UNDOES: Mapping[Trigger, frozenset[Trigger]] = {
    Trigger.SLEEP: frozenset({Trigger.WAKE}),
    Trigger.WAKE: frozenset({Trigger.SLEEP, Trigger.HOLD}),
}
"""Orders whose waiting is over when the command that they wait behind is asked for once more."""
