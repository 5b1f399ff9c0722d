"""Which piece of work is next, and which worker gets it: one rule a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sglang_diffusion_routing.core.policies.consistent_hash import ConsistentHash
from sglang_diffusion_routing.core.policies.least_request import LeastRequest
from sglang_diffusion_routing.core.policies.least_work import LeastWork, LongestFirst, soonest
from sglang_diffusion_routing.core.policies.policy import Chance, Policy
from sglang_diffusion_routing.core.policies.power_of_two import PowerOfTwo
from sglang_diffusion_routing.core.policies.random import Random
from sglang_diffusion_routing.core.policies.round_robin import RoundRobin

__all__ = ["DEFAULT_POLICY", "POLICIES", "Chance", "Policy", "make_policy", "soonest"]

POLICIES: Mapping[str, Callable[[Chance], Policy]] = {
    "least-work": LeastWork,
    "longest-first": LongestFirst,
    "least-request": LeastRequest,
    "round-robin": RoundRobin,
    "random": Random,
    "power-of-two": PowerOfTwo,
    "consistent-hash": ConsistentHash,
}
"""By the names of `--routing-algorithm`."""

DEFAULT_POLICY = "least-work"


def make_policy(name: str, rng: Chance) -> Policy:
    """Make a policy by its name.

    Raises:
        KeyError: no policy has this name; settings check it first.
    """
    return POLICIES[name](rng)
