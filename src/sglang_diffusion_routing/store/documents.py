"""Write weight groups, workers and refits as JSON, and read them again.

Every reader raises ValueError, KeyError, TypeError or AttributeError for what no writer here has made.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from sglang_diffusion_routing.core.refit import Mode, Recipe, Step, StepKind
from sglang_diffusion_routing.core.weights import Group, Loaded, OpenRefit, Unversioned
from sglang_diffusion_routing.store.saved import SavedRefit, SavedWorker

Json = dict[str, Any]

_SECRET = re.compile("auth|token|key|cookie|secret|password", re.IGNORECASE)
"""Names of header fields whose values are not for a disk: a step that is read again is sent without them."""


def _dumped(value: object) -> str:
    # ASCII: a version may name half of a surrogate pair, which UTF-8, and so SQLite, cannot hold.
    return json.dumps(value, separators=(",", ":"))


def write_worker(worker: SavedWorker) -> str:
    """Write a worker without its number, which is its key."""
    return _dumped(
        {
            "url": worker.url,
            "labels": dict(worker.labels),
            "max_concurrency": worker.max_concurrency,
            "quarantined": worker.quarantined,
            "held": worker.held,
            "asleep": worker.asleep,
        }
    )


def read_worker(registration: int, text: str) -> SavedWorker:
    """Read what `write_worker` wrote."""
    fields: Json = json.loads(text)
    labels = tuple((str(key), str(value)) for key, value in fields.pop("labels").items())
    return SavedWorker(registration=registration, labels=labels, **fields)


def write_group(group: Group) -> str:
    """Write what is small in a group; `write_recipe` has the rest, but for the history, which is a table."""
    return _dumped(
        {
            "target": group.target,
            "sequence": group.sequence,
            "raised_by": group.raised_by,
            "previous": None if group.previous is None else _write_loaded(group.previous),
            "open": None if group.open is None else _write_open(group.open),
            "checksums": [[_write_loaded(loaded), dict(sums)] for loaded, sums in group.checksums.items()],
            "unproven": group.unproven,
            "tainted": group.tainted,
            "rebased": group.rebased,
            "held": group.held,
        }
    )


def read_group(text: str, recipe: Recipe, raised: dict[str, int]) -> Group:
    """Read what `write_group` wrote, and add what is kept beside it."""
    fields: Json = json.loads(text)
    previous, opened = fields["previous"], fields["open"]
    return Group(
        target=fields["target"],
        sequence=fields["sequence"],
        raised=raised,
        raised_by=fields["raised_by"],
        previous=None if previous is None else _read_loaded(previous),
        open=None if opened is None else _read_open(opened),
        recipe=recipe,
        checksums={_read_loaded(loaded): dict(sums) for loaded, sums in fields["checksums"]},
        unproven=fields["unproven"],
        tainted=fields["tainted"],
        rebased=fields["rebased"],
        held=fields.get("held", True),  # where it is not said, a proof is asked for
    )


def write_recipe(recipe: Recipe) -> str:
    """Write how a fresh process is brought to a target."""
    return _dumped([_write_step(step) for step in recipe.steps])


def read_recipe(text: str) -> Recipe:
    """Read what `write_recipe` wrote."""
    return Recipe(tuple(_read_step(step) for step in json.loads(text)))


def write_refit(refit: SavedRefit) -> str:
    """Write a refit without its id, which is its key."""
    return _dumped(
        {
            "document": refit.document,
            "groups": sorted(refit.groups),
            "version": refit.version,
            "mode": refit.mode.value,
            "step": None if refit.step is None else _write_step(refit.step),
            "admit_new": refit.admit_new,
            "drain_limit_s": refit.drain_limit_s,
            "is_open": refit.is_open,
        }
    )


def read_refit(refit_id: str, text: str) -> SavedRefit:
    """Read what `write_refit` wrote."""
    fields: Json = json.loads(text)
    step = fields["step"]
    return SavedRefit(
        refit_id=refit_id,
        document=fields["document"],
        groups=frozenset(fields["groups"]),
        version=fields["version"],
        mode=Mode(fields["mode"]),
        is_open=fields["is_open"],
        step=None if step is None else _read_step(step),
        admit_new=fields["admit_new"],
        drain_limit_s=fields["drain_limit_s"],
    )


def _write_loaded(loaded: Loaded) -> Json:
    """Keep a version apart from the words for what has none: "base" is a version that a trainer may choose."""
    return {"is": loaded.value} if isinstance(loaded, Unversioned) else {"version": loaded}


def _read_loaded(fields: Json) -> Loaded:
    return Unversioned(fields["is"]) if "is" in fields else str(fields["version"])


def _write_open(refit: OpenRefit) -> Json:
    """Write a refit under way; what it builds on is found anew when it is opened again."""
    return {
        "refit_id": refit.refit_id,
        "version": refit.version,
        "mode": refit.mode.value,
        "step": _write_step(refit.step),
        "admit_new": refit.admit_new,
    }


def _read_open(fields: Json) -> OpenRefit:
    return OpenRefit(**{**fields, "mode": Mode(fields["mode"]), "step": _read_step(fields["step"])})


def _write_step(step: Step) -> Json:
    return {
        "kind": step.kind.value,
        "version": step.version,
        "target": step.target,
        "headers": [(name, value) for name, value in step.headers if not _SECRET.search(name)],
        "body": base64.b64encode(step.body).decode(),
        "modules": sorted(step.modules),
        "self_contained": step.self_contained,
    }


def _read_step(fields: Json) -> Step:
    return Step(
        kind=StepKind(fields["kind"]),
        version=fields["version"],
        target=fields["target"],
        headers=tuple((str(name), str(value)) for name, value in fields["headers"]),
        body=base64.b64decode(fields["body"], validate=True),
        modules=frozenset(fields["modules"]),
        self_contained=fields["self_contained"],
    )
