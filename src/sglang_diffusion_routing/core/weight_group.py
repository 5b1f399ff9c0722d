"""What a worker may have loaded, and the record of a weight group: what its workers should have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sglang_diffusion_routing.core.refit import Mode, Recipe, Step


class Unversioned(Enum):
    """What a worker has when no refit says it."""

    BASE = "base"
    """What its process started with."""
    SUSPECT = "suspect"
    """Unknown: a refit was lost, or refused without proof that nothing changed."""
    UNCHECKED = "unchecked"
    """Not known yet: its process, or the router, was started anew."""
    OTHER = "other"
    """Something else than what its peers started with, and there is no refit to bring it to."""


Loaded = str | Unversioned
"""The version that a worker has loaded; a version is an opaque string from the trainer."""

Checksums = Mapping[str, str]
"""SHA-256 by module."""

BEFORE_ANY_REFIT = "0"
"""The version shown for what a process started with (API §3)."""


@dataclass(frozen=True, slots=True)
class OpenRefit:
    """A refit under way in a group.

    admit_new: of a rolling one, whether only the new version serves as soon as there is one.
    dormant: it is remembered from an earlier run of the router, and no worker has been able to take it since.
    builds_on, base: the group's recipe and target when it began.
    """

    refit_id: str
    version: str
    mode: Mode
    step: Step
    admit_new: bool = False
    dormant: bool = False
    builds_on: Recipe = field(default_factory=Recipe)
    base: Loaded = Unversioned.BASE

    @property
    def fences(self) -> bool:
        """Whether nobody serves the old version while it lasts."""
        return self.mode is not Mode.ROLLING


@dataclass(slots=True)
class Group:
    """The workers that share one target.

    target: version that all should have, None before the first refit.
    sequence: how often the target was raised.
    raised: for each version the sequence at which it was last raised, oldest first.
    raised_by: the refit that raised the target last.
    previous: what counts as current too until a rolling refit commits.
    open: the refit under way.
    recipe: how a fresh process is brought to the target.
    checksums: what the first worker that had each version reported.
    unproven: the target is remembered from an earlier run of the router, and no worker has been seen to have it.
    tainted: a refit has reached workers while there was no target, and may have left something there.
    rebased: a refit of anything else than a LoRA has reached workers: they may differ in more than their LoRA.
    held: a registered worker has the target; of a remembered one, whether that was so when the router ended.
    """

    target: str | None = None
    sequence: int = 0
    raised: dict[str, int] = field(default_factory=dict)
    raised_by: str | None = None
    previous: Loaded | None = None
    open: OpenRefit | None = None
    recipe: Recipe = field(default_factory=Recipe)
    checksums: dict[Loaded, Checksums] = field(default_factory=dict)
    unproven: bool = False
    tainted: bool = False
    rebased: bool = False
    held: bool = False

    @property
    def wanted(self) -> Loaded:
        """What its workers should have."""
        return Unversioned.BASE if self.target is None else self.target

    def serves(self, loaded: Loaded) -> bool:
        """Tell whether a worker may serve with these weights now."""
        if self.unproven:
            return False
        refit = self.open
        if refit is not None and refit.fences and self.raised_by != refit.refit_id:
            return False
        if self.target is None:
            # A worker that was moved here from another group brings its version along.
            return loaded is Unversioned.BASE or self.sequence == 0
        return loaded in (self.target, self.previous)


def shown_version(loaded: Loaded) -> str | None:
    """Give the version to show for a worker, None while it is unknown."""
    if loaded is Unversioned.BASE:
        return BEFORE_ANY_REFIT
    return loaded if isinstance(loaded, str) else None
