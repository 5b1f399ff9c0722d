"""Anything that may be saved, for hypothesis."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from sglang_diffusion_routing.core.refit import Mode, Recipe, Step, StepKind
from sglang_diffusion_routing.core.weights import Group, OpenRefit, Unversioned
from sglang_diffusion_routing.store.saved import SavedJob, SavedRefit, SavedWorker

# Half a surrogate pair too: JSON from outside may name one.
names = st.text(max_size=8) | st.just("\ud800") | st.just("a\0b")
labels = st.dictionaries(names, names, max_size=3).map(lambda found: tuple(found.items()))
loaded = names | st.sampled_from(Unversioned)
steps = st.builds(
    Step,
    st.sampled_from(StepKind),
    names,
    names,
    st.lists(st.tuples(names, names), max_size=2).map(tuple),
    st.binary(max_size=8),
    st.frozensets(names, max_size=2),
    st.booleans(),
)
recipes = st.lists(steps, max_size=3).map(lambda found: Recipe(tuple(found)))
opened = st.builds(OpenRefit, names, names, st.sampled_from(Mode), steps, st.booleans())
workers = st.builds(
    SavedWorker,
    st.integers(1, 5),
    names,
    labels,
    st.none() | st.integers(0, 9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
jobs = st.builds(SavedJob, names, names, names, st.integers(0, 5), st.floats(4e9, 5e9), st.booleans())
refits = st.builds(
    SavedRefit,
    names,
    names,
    st.frozensets(names, max_size=2),
    names,
    st.sampled_from(Mode),
    st.booleans(),
    st.none() | steps,
    st.booleans(),
    st.none() | st.floats(0, 9),
)


@st.composite
def groups(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Group:
    versions = draw(st.lists(names, max_size=4, unique=True))
    return Group(
        target=versions[-1] if versions else None,
        sequence=len(versions),
        raised={version: place for place, version in enumerate(versions, 1)},
        raised_by=draw(st.none() | names),
        previous=draw(st.none() | loaded),
        open=draw(st.none() | opened),
        recipe=draw(recipes),
        checksums=draw(st.dictionaries(loaded, st.dictionaries(names, names, max_size=2), max_size=3)),
        unproven=draw(st.booleans()),
        tainted=draw(st.booleans()),
        rebased=draw(st.booleans()),
        held=draw(st.booleans()),
    )
