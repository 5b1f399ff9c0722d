"""Which steps lead to a version, and which of them a worker misses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.core.refit import BYTES_MAX, STEPS_MAX, Recipe, Step, StepKind, step_of

pytestmark = pytest.mark.core


def disk(version: str, *modules: str) -> Step:
    return Step(StepKind.DISK, version, "/update_weights_from_disk", modules=frozenset(modules))


def lora(version: str, *modules: str, self_contained: bool = True) -> Step:
    return Step(StepKind.SET_LORA, version, "/v1/set_lora", modules=frozenset(modules), self_contained=self_contained)


def merge(version: str) -> Step:
    return Step(StepKind.MERGE_LORA, version, "/v1/merge_lora_weights", self_contained=False)


def unmerge(version: str) -> Step:
    return Step(StepKind.UNMERGE_LORA, version, "/v1/unmerge_lora_weights", self_contained=False)


def tensors(version: str) -> Step:
    return Step(StepKind.TENSOR, version, "/update_weights_from_tensor")


def recipe(*steps: Step) -> Recipe:
    made = Recipe()
    for step in steps:
        made = made.after(step)
    return made


def versions(made: Recipe) -> list[str]:
    return [step.version for step in made.steps]


def test_a_whole_checkpoint_makes_everything_before_it_superfluous() -> None:
    assert versions(recipe(disk("1"), disk("2", "vae"), disk("3"))) == ["3"]


def test_a_checkpoint_behind_a_lora_leaves_the_wrapped_layers_alone() -> None:
    made = recipe(disk("1"), lora("2"), merge("3"), disk("4"))
    assert versions(made) == ["1", "2", "3", "4"]
    assert versions(recipe(*made.steps, lora("5"), disk("6"), lora("7"))) == ["1", "2", "6", "7"]


def test_the_last_switch_of_a_lora_counts() -> None:
    assert versions(recipe(disk("1"), lora("2"), merge("3"), unmerge("4"), merge("5"))) == ["1", "2", "5"]
    assert versions(recipe(disk("1"), lora("2"), merge("3"), lora("4", "transformer"), unmerge("5"))) == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def test_part_of_a_checkpoint_replaces_only_that_part() -> None:
    made = recipe(disk("1"), disk("2", "transformer"), disk("3", "vae"), disk("4", "transformer"))
    assert versions(made) == ["1", "3", "4"]


def test_a_later_lora_replaces_an_earlier_one_of_the_same_parts() -> None:
    assert versions(recipe(disk("1"), lora("2", "transformer"), merge("3"), lora("4", "transformer"))) == [
        "1",
        "3",
        "4",
    ]
    assert versions(recipe(disk("1"), lora("2", "transformer"), merge("3"), lora("4"))) == ["1", "4"]


def test_a_lora_that_names_no_file_needs_the_steps_that_loaded_it() -> None:
    assert versions(recipe(disk("1"), lora("2"), lora("3", self_contained=False))) == ["1", "2", "3"]


def test_tensors_hide_what_came_before_and_a_whole_checkpoint_ends_that() -> None:
    made = recipe(disk("1"), lora("2"), tensors("3"))
    assert versions(made) == ["3"]
    assert made.obstacle == "weights '3' came as tensors, which cannot be sent again"
    assert recipe(*made.steps, disk("4", "transformer")).obstacle is not None
    assert recipe(*made.steps, disk("4")).obstacle is None


def test_what_was_only_reported_cannot_be_sent_again() -> None:
    made = recipe(Step(StepKind.REPORTED, "7", ""))
    assert made.obstacle == "weights '7' did not come through the router"


def test_a_worker_misses_what_came_after_its_own_version_and_all_where_that_is_unknown() -> None:
    made = recipe(disk("1"), lora("2"), merge("3"))
    assert [step.version for step in made.missing_from("2")] == ["3"]
    assert [step.version for step in made.missing_from("other")] == ["1", "2", "3"]
    assert made.missing_from("3") == ()


def test_a_worker_that_has_the_tensors_can_be_sent_what_came_after() -> None:
    made = recipe(tensors("1"), lora("2"))
    assert made.obstacle_for("1") is None
    assert made.obstacle_for("0") == "weights '1' came as tensors, which cannot be sent again"


def test_nothing_to_send_is_an_obstacle() -> None:
    assert Recipe().obstacle == "there is nothing to send again"
    assert recipe(disk("1")).obstacle_for("1") == "there is nothing to send again"


def test_a_recipe_that_grows_too_long_cannot_be_replayed_and_stays_bounded() -> None:
    made = Recipe()
    for number in range(3 * STEPS_MAX):
        made = made.after(lora(str(number), self_contained=False)).bounded()
    assert len(made.steps) <= STEPS_MAX
    assert (
        made.obstacle == f"more than {STEPS_MAX} steps, or {BYTES_MAX} bytes, have come since the last whole checkpoint"
    )
    assert made.after(lora("new")).bounded().obstacle is not None
    assert made.after(disk("new")).bounded().obstacle is None


def test_a_recipe_whose_bodies_are_too_large_cannot_be_replayed_and_keeps_none() -> None:
    large = Step(StepKind.SET_LORA, "1", "/v1/set_lora", body=bytes(BYTES_MAX), self_contained=False)
    assert recipe(large).bounded().obstacle is None
    grown = recipe(large, Step(StepKind.SET_LORA, "3", "/", body=b"x", self_contained=False)).bounded()
    assert sum(len(step.body) for step in grown.steps) == 0
    assert grown.obstacle is not None
    assert grown.after(merge("4")).obstacle_for("3") is None


@pytest.mark.parametrize(
    ("kind", "body", "modules", "self_contained"),
    [
        (StepKind.DISK, {"model_path": "/m"}, set(), True),
        (StepKind.DISK, {"model_path": "/m", "target_modules": ["transformer"]}, {"transformer"}, True),
        (StepKind.SET_LORA, {"lora_nickname": "a", "lora_path": "/l"}, set(), True),
        (StepKind.SET_LORA, {"lora_nickname": "a", "lora_path": "/l", "target": "all"}, set(), True),
        (StepKind.SET_LORA, {"lora_nickname": "a", "lora_path": "/l", "target": "transformer"}, {"transformer"}, True),
        (StepKind.SET_LORA, {"lora_nickname": "a"}, set(), False),
        (StepKind.SET_LORA, {"lora_nickname": ["a", "b"], "lora_path": ["/l", None]}, set(), False),
        (StepKind.MERGE_LORA, {"strength": 0.5}, set(), False),
        (StepKind.DISK, [], set(), True),
    ],
)
def test_a_step_is_read_from_its_body(kind: StepKind, body: object, modules: set[str], *, self_contained: bool) -> None:
    text = json.dumps(body).encode()
    assert step_of(kind, "1", "/t", [("a", "b")], text) == Step(
        kind, "1", "/t", (("a", "b"),), text, frozenset(modules), self_contained
    )


def test_a_body_that_is_no_json_is_taken_to_change_everything() -> None:
    assert step_of(StepKind.DISK, "1", "/t", (), b"{").modules == frozenset()


def test_tensors_are_not_kept() -> None:
    assert step_of(StepKind.TENSOR, "1", "/t", (), b"x" * 100).body == b""


STEPS = st.builds(
    Step,
    kind=st.sampled_from([StepKind.DISK, StepKind.SET_LORA]),
    version=st.integers(0, 9).map(str),
    target=st.just("/"),
    modules=st.frozensets(st.sampled_from(["transformer", "vae"]), max_size=2),
    self_contained=st.booleans(),
)


@given(st.lists(STEPS, max_size=12))
def test_replaying_the_recipe_leaves_what_replaying_every_step_does(steps: list[Step]) -> None:
    """Each part of the model remembers the checkpoint and then the LoRAs applied to it since."""
    assert outcome(recipe(*steps).steps) == outcome(steps)


def outcome(steps: list[Step] | tuple[Step, ...]) -> dict[str, tuple[str, ...]]:
    parts: dict[str, tuple[str, ...]] = {"transformer": (), "vae": ()}
    for step in steps:
        for part in step.modules or parts:
            if step.kind is StepKind.DISK:
                parts[part] = (step.version,)
            elif step.self_contained:
                parts[part] = (*(name for name in parts[part] if not name.startswith("+")), f"+{step.version}")
            else:
                parts[part] = (*parts[part], f"+{step.version}")
    return parts


TRANSFORMERS = frozenset({"transformer", "transformer_2"})
ON_DISK = st.frozensets(st.sampled_from([*TRANSFORMERS, "vae"]), max_size=3)
OF_LORA = st.frozensets(st.sampled_from([*TRANSFORMERS]), max_size=2)
KINDS = st.one_of(
    st.tuples(st.just(StepKind.DISK), ON_DISK),
    st.tuples(st.sampled_from([StepKind.SET_LORA, StepKind.MERGE_LORA, StepKind.UNMERGE_LORA]), OF_LORA),
)


@dataclass
class Engine:
    """SGLang-Diffusion 0.5.23 as it was measured: a first LoRA keeps the layers that it wraps from disk for good.

    rest, wrapped: what the layers of each part come from that no LoRA wraps, and the others.
    adapters: the LoRA of each transformer, and its strength; None when it is not applied.
    """

    rest: dict[str, str] = field(default_factory=dict)
    wrapped: dict[str, str] = field(default_factory=dict)
    has_wrapped: bool = False
    adapters: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def take(self, steps: Iterable[Step]) -> Engine:
        for step in steps:
            if step.kind is StepKind.DISK:
                self._load(step.version, step.modules or TRANSFORMERS | {"vae"})
            elif step.kind is StepKind.SET_LORA:
                self.has_wrapped = True
                self.adapters |= dict.fromkeys(step.modules or TRANSFORMERS, (step.version, "1.0"))
            else:
                strength = step.version if step.kind is StepKind.MERGE_LORA else None
                parts = (step.modules or TRANSFORMERS) & self.adapters.keys()
                self.adapters |= {part: (self.adapters[part][0], strength) for part in parts}
        return self

    def _load(self, version: str, parts: Iterable[str]) -> None:
        for part in parts:
            self.rest[part] = version
            if not self.has_wrapped:
                self.wrapped[part] = version


@given(st.lists(KINDS, max_size=12), st.integers(0, 12))
def test_on_a_real_engine_a_replay_gives_what_the_refits_gave(
    kinds: list[tuple[StepKind, frozenset[str]]], had: int
) -> None:
    """Both to a fresh process and to a worker that had the first few of them."""
    steps = [Step(kind, str(place), "/", modules=modules) for place, (kind, modules) in enumerate(kinds)]
    made, wanted = recipe(*steps), Engine().take(steps)
    assert Engine().take(made.steps) == wanted
    begun = steps[:had]
    loaded = begun[-1].version if begun else None
    assert Engine().take(begun).take(made.missing_from(loaded)) == wanted


@given(st.lists(st.sampled_from([merge, unmerge, lora]), max_size=3 * STEPS_MAX))
def test_switching_a_lora_on_and_off_never_makes_a_recipe_too_long(makers: list[Callable[[str], Step]]) -> None:
    made = recipe(disk("base"), *(make(str(place)) for place, make in enumerate(makers)))
    assert len(made.steps) <= 3


@pytest.mark.parametrize(
    ("made", "step", "loaded", "allowed"),
    [
        (recipe(disk("1"), lora("2")), disk("3"), "anything", True),
        (recipe(disk("1"), lora("2")), tensors("3"), "anything", True),
        (recipe(disk("1"), lora("2")), disk("3", "vae"), "0", False),
        (recipe(disk("1"), lora("2")), disk("3", "vae"), "2", True),
        (recipe(disk("1", "vae")), disk("3", "vae"), "0", True),
        (recipe(lora("1")), lora("3"), "0", True),
        (recipe(lora("1")), lora("3", "vae"), "0", False),
        (recipe(disk("1")), lora("3"), "0", False),
        (recipe(disk("1")), lora("3"), "1", True),
        (recipe(lora("1")), lora("3", self_contained=False), "0", False),
        (recipe(lora("1")), merge("3"), "0", False),
        (recipe(), merge("3"), "0", False),
    ],
)
def test_a_step_is_enough_for_a_worker_if_it_sets_all_that_the_worker_misses(
    made: Recipe, step: Step, loaded: str, *, allowed: bool
) -> None:
    assert made.allows(step, loaded) is allowed


@pytest.mark.parametrize(
    ("made", "step", "loaded", "differs"),
    [
        (recipe(lora("1")), disk("2"), "1", False),
        (recipe(lora("1")), disk("2"), "0", True),
        (recipe(lora("1")), tensors("2"), "0", True),
        (recipe(lora("1")), lora("2"), "0", False),
        (recipe(disk("1")), disk("2"), "0", False),
    ],
)
def test_what_comes_on_top_of_a_lora_is_not_the_same_for_those_that_lack_it(
    made: Recipe, step: Step, loaded: str, *, differs: bool
) -> None:
    assert made.may_differ(step, loaded) is differs
