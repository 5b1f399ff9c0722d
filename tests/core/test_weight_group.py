"""What a group wants, and who may serve for it."""

from __future__ import annotations

import pytest

from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.weight_group import Group, Loaded, OpenRefit, Unversioned, shown_version

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("loaded", "shown"), [(Unversioned.BASE, "0"), (Unversioned.SUSPECT, None), ("v1", "v1")])
def test_the_version_shown_is_0_for_what_a_process_started_with(loaded: str | Unversioned, shown: str | None) -> None:
    assert shown_version(loaded) == shown


def test_a_group_without_a_target_wants_what_its_processes_started_with() -> None:
    assert (Group().wanted, Group("v1").wanted) == (Unversioned.BASE, "v1")


def under_way(mode: Mode) -> OpenRefit:
    return OpenRefit("refit-2", "v2", mode, Step(StepKind.DISK, "v2", "/disk"))


@pytest.mark.parametrize(
    ("group", "served"),
    [
        (Group(), [Unversioned.BASE, "v1", "v2"]),  # who comes from another group brings its version along
        (Group(sequence=2), [Unversioned.BASE]),
        (Group("v1", 1), ["v1"]),
        (Group("v1", 1, previous=Unversioned.BASE), [Unversioned.BASE, "v1"]),
        (Group("v1", 1, unproven=True), []),
        (Group("v1", 1, open=under_way(Mode.DRAIN)), []),
        (Group("v1", 1, open=under_way(Mode.ROLLING)), ["v1"]),
        (Group("v2", 2, raised_by="refit-2", open=under_way(Mode.DRAIN)), ["v2"]),
    ],
)
def test_who_may_serve(group: Group, served: list[Loaded]) -> None:
    assert [loaded for loaded in (Unversioned.BASE, "v1", "v2") if group.serves(loaded)] == served
