"""The ledger of weights: what each group wants, what each worker has, and whether that is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Unversioned(Enum):
    """What a worker has when no refit says it."""

    BASE = "base"
    """What its process started with."""
    SUSPECT = "suspect"
    """Unknown: a refit was lost, or refused without proof that nothing changed."""


Loaded = str | Unversioned
"""The version that a worker has loaded; a version is an opaque string from the trainer."""

BEFORE_ANY_REFIT = "0"
"""The version shown for what a process started with (API §3)."""

# A trainer that refits every minute for a week makes 10,080; older ones are forgotten and count as the oldest.
HISTORY_CAP = 16_384


class Currency(Enum):
    """Whether a worker may generate for its group."""

    CURRENT = "current"
    STALE = "stale"
    SUSPECT = "suspect"


@dataclass(slots=True)
class Group:
    """The workers that share one target.

    target: version that all should have, None before the first refit.
    sequence: how often the target was raised.
    raised: for each version the sequence at which it was last raised, oldest first.
    """

    target: str | None = None
    sequence: int = 0
    raised: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Targets by weight group. A target rises on a refit's first success and never falls by itself."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def group(self, name: str) -> Group:
        """Give a group's record; a group that no refit has reached has an empty one."""
        return self._groups.get(name, Group())

    def succeeded(self, group: str, version: str) -> bool:
        """Note that a worker of the group has loaded `version`.

        Returns:
            True if this raised the target, so that the others of the group are to be judged anew.
        """
        record = self._groups.setdefault(group, Group())
        if record.target == version:
            return False
        record.sequence += 1
        record.target = version
        record.raised.pop(version, None)
        record.raised[version] = record.sequence
        if len(record.raised) > HISTORY_CAP:
            del record.raised[next(iter(record.raised))]
        return True

    def currency(self, group: str | None, loaded: Loaded) -> Currency:
        """Judge a worker by what it has loaded.

        Args:
            group: None while nobody knows which group the worker belongs to; then any target at all makes it stale.
        """
        if loaded is Unversioned.SUSPECT:
            return Currency.SUSPECT
        if group is None:
            return Currency.STALE if self._groups else Currency.CURRENT
        target = self.group(group).target
        return Currency.CURRENT if target is None or loaded == target else Currency.STALE

    def sequence_of(self, group: str, version: str) -> int | None:
        """Give a version's place in the ledger's own order, None if the group never had it; "0" is before all."""
        record = self.group(group)
        if version == BEFORE_ANY_REFIT:
            return record.raised.get(version, 0)
        return record.raised.get(version)


def shown_version(loaded: Loaded) -> str | None:
    """Give the version to show for a worker, None while it is unknown."""
    if loaded is Unversioned.BASE:
        return BEFORE_ANY_REFIT
    if loaded is Unversioned.SUSPECT:
        return None
    return loaded
