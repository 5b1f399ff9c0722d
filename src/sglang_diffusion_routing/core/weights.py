"""The ledger of weights: what each group wants, what each worker has, and whether that is the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType

from sglang_diffusion_routing.core.refit import Recipe, Step, StepKind
from sglang_diffusion_routing.core.weight_group import (
    BEFORE_ANY_REFIT,
    Checksums,
    Group,
    Loaded,
    OpenRefit,
    Unversioned,
    shown_version,
)

__all__ = [
    "BEFORE_ANY_REFIT",
    "Checksums",
    "Currency",
    "Group",
    "Ledger",
    "Loaded",
    "OpenRefit",
    "Unversioned",
    "shown_version",
]

# A trainer that refits every minute for a week makes 10,080; older ones are forgotten and count as the oldest.
HISTORY_CAP = 16_384

CHECKSUMS_MAX = 64
"""Versions whose checksums are kept: only the target's, and what a worker had just before, are ever asked for."""


class Currency(Enum):
    """Whether a worker may generate for its group."""

    CURRENT = "current"
    STALE = "stale"
    SUSPECT = "suspect"


class Ledger:
    """Targets by weight group. A target rises on a refit's first success and never falls by itself.

    Attributes:
        changed: groups whose record the last event changed.
    """

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self.changed: set[str] = set()

    @property
    def groups(self) -> Mapping[str, Group]:
        return MappingProxyType(self._groups)

    def group(self, name: str) -> Group:
        """Give a group's record; a group that no refit has reached has an empty one."""
        return self._groups.get(name, Group())

    def restore(self, groups: Mapping[str, Group]) -> None:
        """Take over what an earlier run of the router knew: no target counts until a worker has proven it."""
        for name, group in groups.items():
            checksums = group.checksums
            if group.target is None and not group.tainted and group.open is None:
                # Whatever its workers start with now may be another model.
                checksums = {}
            self._groups[name] = replace(
                group,
                unproven=group.target is not None,
                previous=None,
                checksums=checksums,
                # Whom the refit under way has reached has something else by now.
                held=group.held and group.open is None,
            )
            self.changed.add(name)
            self.reach(name)

    def begin(self, groups: Collection[str], refit: OpenRefit) -> None:
        """Note that a refit is under way in these groups."""
        for name in groups:
            group = self._record(name)
            group.open = replace(refit, builds_on=group.recipe, base=group.wanted)
            if refit.dormant:
                group.held = False
                self.reach(name)

    def reach(self, name: str) -> None:
        """Note that the refit under way is about to reach a worker of the group, or may have done so."""
        refit, group = self.group(name).open, self.group(name)
        tainted = group.tainted or (refit is not None and group.target is None)
        rebased = group.rebased or (refit is not None and refit.step.kind is not StepKind.SET_LORA)
        if (tainted, rebased) != (group.tainted, group.rebased):
            group = self._record(name)
            group.tainted, group.rebased = tainted, rebased

    def clear(self, name: str) -> None:
        """Note that every worker of the group is known to have what it started with."""
        if self.group(name).tainted:
            self._record(name).tainted = False

    def allows(self, name: str, refit_id: str | None, loaded: Loaded, *, known: bool, lora_only: bool) -> bool:
        """Tell whether the refit under way brings a worker that has `loaded` to what it brings the others to.

        Args:
            known: whether what it has is one of the versions of the ledger, or what it started with.
            lora_only: what is not known of it is only which LoRA it has.
        """
        refit = self.group(name).open
        if refit is None or refit.refit_id != refit_id or loaded == refit.base or refit.step.whole:
            return True
        if known:
            return refit.builds_on.allows(refit.step, loaded)
        return self._replaces(name, refit.step, lora_only=lora_only)

    def leads_from(self, name: str, loaded: Loaded, *, lora_only: bool) -> bool:
        """Tell whether all steps of the group's recipe lead to its target from what a worker has, unknown as it is.

        One that is only unchecked may have had any of the group's refits, and a recipe with a whole checkpoint in it
        leads on from each of them, below which a LoRA may lie (`Recipe.after`).

        Args:
            lora_only: what is not known of the worker is only which LoRA it has.
        """
        steps = self.group(name).recipe.steps
        if not steps:
            return False
        if loaded is Unversioned.UNCHECKED and any(step.whole for step in steps):
            return True
        return steps[0].whole or self._replaces(name, steps[0], lora_only=lora_only)

    def mends(self, name: str) -> bool:
        """Tell whether the router may bring workers of the group to its target by itself.

        Not while a refit is under way. One that no worker can take yet leaves it to that, if it builds on the target.
        """
        refit = self.group(name).open
        if refit is None:
            return True
        return refit.dormant and not refit.step.whole and not self._replaces(name, refit.step, lora_only=False)

    def _replaces(self, name: str, step: Step, *, lora_only: bool) -> bool:
        """Tell whether a step undoes all that workers can differ in, which is only their LoRA."""
        lora_only = lora_only or not self.group(name).rebased
        return lora_only and step.kind is StepKind.SET_LORA and step.self_contained and not step.modules

    def is_lora(self, name: str, refit_id: str | None, loaded: Loaded) -> bool:
        """Tell whether the refit under way sets a LoRA on what `loaded` names, and nothing else."""
        refit = self.group(name).open
        under_way = refit is not None and refit.refit_id == refit_id and refit.step.kind is StepKind.SET_LORA
        return under_way and refit is not None and loaded == refit.base

    def may_differ(self, name: str, refit_id: str | None, loaded: Loaded) -> bool:
        """Tell whether a worker that had `loaded` may have come out of the refit under way unlike the others."""
        refit = self.group(name).open
        if refit is None or refit.refit_id != refit_id or loaded == refit.base:
            return False
        return refit.builds_on.may_differ(refit.step, loaded)

    def end(self, refit_id: str) -> set[str]:
        """Note that a refit is over, and give the groups that it was under way in."""
        ended = {name for name, group in self._groups.items() if group.open and group.open.refit_id == refit_id}
        for name in ended:
            group = self._record(name)
            group.open = group.previous = None
        return ended

    def succeeded(self, name: str, version: str, refit_id: str | None = None) -> bool:
        """Note that a worker of the group has loaded `version` in a refit.

        Returns:
            True if this raised the target, so that the others of the group are to be judged anew.
        """
        group = self._record(name)
        if refit_id is None:
            # Without a name two refits to one version cannot be told apart.
            if group.target == version:
                return False
        elif group.raised_by == refit_id:
            proven, group.unproven = group.unproven, False
            return proven
        before = group.wanted
        under_way = group.open if group.open is not None and group.open.refit_id == refit_id else None
        group.sequence += 1
        group.raised_by = refit_id
        group.unproven = False
        group.rebased = group.rebased or (under_way is not None and under_way.step.kind is not StepKind.SET_LORA)
        group.checksums.pop(version, None)
        if under_way is not None and not under_way.fences and not under_way.admit_new and before != version:
            group.previous = before
        if under_way is not None and under_way.step.kind is StepKind.REPORTED and version == BEFORE_ANY_REFIT:
            group.target, group.recipe, group.tainted = None, Recipe(), False
        else:
            group.target = version
            group.recipe = Recipe() if under_way is None else group.recipe.after(under_way.step).bounded()
        group.raised.pop(version, None)
        group.raised[version] = group.sequence
        if len(group.raised) > HISTORY_CAP:
            del group.raised[next(iter(group.raised))]
        return True

    def prove(self, name: str) -> bool:
        """Note that a worker has the remembered target; True if that was in question."""
        if not self.group(name).unproven:
            return False
        self._record(name).unproven = False
        return True

    def note_held(self, name: str, *, held: bool) -> None:
        """Note whether anybody has the target."""
        if self.group(name).held is not held:
            self._record(name).held = held

    def wants_proof(self, name: str) -> bool:
        """Tell whether a worker must be seen to have the remembered target before it is sent to others.

        It must where somebody had it when the router ended: if nobody has it now, these may be other workers. Where
        nobody had it any more, or nobody can say what it looks like, there is no proof to be had.
        """
        group = self.group(name)
        return group.unproven and group.held and self.expected(name, group.target or "") is not None

    def note_checksums(self, name: str, loaded: Loaded, checksums: Checksums) -> None:
        """Keep what the first worker that has `loaded` reported; later reports change nothing."""
        group = self._record(name)
        group.checksums.setdefault(loaded, checksums)
        if len(group.checksums) > CHECKSUMS_MAX:
            # BASE is what every restarted worker is compared with; versions go, oldest first.
            del group.checksums[next(key for key in group.checksums if key is not Unversioned.BASE)]

    def expected(self, name: str, loaded: Loaded) -> Checksums | None:
        """Give the checksums that a worker with `loaded` must have, None while nobody knows them."""
        return self.group(name).checksums.get(loaded)

    def currency(self, name: str | None, loaded: Loaded) -> Currency:
        """Judge a worker by what it has loaded.

        Args:
            name: None while nobody knows which group the worker belongs to; then any target at all makes it stale.
        """
        if loaded is Unversioned.SUSPECT:
            return Currency.SUSPECT
        if loaded is Unversioned.UNCHECKED or loaded is Unversioned.OTHER:
            return Currency.STALE
        if name is None:
            return Currency.STALE if self._any_demand() else Currency.CURRENT
        return Currency.CURRENT if self.group(name).serves(loaded) else Currency.STALE

    def sequence_of(self, name: str, version: str) -> int | None:
        """Give a version's place in the ledger's own order, None if the group never had it; "0" is before all."""
        raised = self.group(name).raised
        if version == BEFORE_ANY_REFIT:
            return raised.get(version, 0)
        return raised.get(version)

    def meets(self, name: str | None, loaded: Loaded, wanted: str) -> bool:
        """Tell whether a worker has `wanted` or anything later in the ledger's order."""
        has = shown_version(loaded)
        if has is None:
            return False
        if name is None:
            return wanted == BEFORE_ANY_REFIT
        asked, had = self.sequence_of(name, wanted), self.sequence_of(name, has)
        return asked is not None and had is not None and had >= asked

    def _any_demand(self) -> bool:
        return any(group.target is not None or group.open is not None for group in self._groups.values())

    def _record(self, name: str) -> Group:
        self.changed.add(name)
        return self._groups.setdefault(name, Group())
