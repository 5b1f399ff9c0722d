"""What a real engine does with its weights: facts that the router's rules rest on (docs/worker-states.md)."""

from pathlib import Path
from typing import Any

import httpx2
import msgpack
import pytest

from engine.worker import EngineWorker

DISK, SET, MERGE, UNMERGE = (
    "/update_weights_from_disk",
    "/v1/set_lora",
    "/v1/merge_lora_weights",
    "/v1/unmerge_lora_weights",
)


class Weights:
    """The weights of one worker, and what changes them."""

    def __init__(self, worker: EngineWorker, models: Path) -> None:
        self._url = worker.url
        self.models = models

    def send(self, route: str, **body: Any) -> int:
        return httpx2.post(self._url + route, json=body, timeout=60.0).status_code

    def checksums(self) -> dict[str, str]:
        reply = httpx2.post(f"{self._url}/get_weights_checksum", json={}, timeout=60.0)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def transformer(self) -> str:
        return self.checksums()["transformer"]

    def refit(self, model: str) -> int:
        return self.send(DISK, model_path=str(self.models / model))

    def set_lora(self, *names: str, strengths: tuple[float, ...]) -> int:
        return self.send(
            SET,
            lora_nickname=list(names),
            lora_path=[str(self.models / f"{name}-lora") for name in names],
            target=["all"] * len(names),
            strength=list(strengths),
        )

    def made(self) -> bytes:
        """Give what the model makes of one prompt and seed."""
        body = {"prompt": "a cat", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 2}
        reply = httpx2.post(f"{self._url}/rollout/generate", json=body, timeout=60.0)
        return bytes(msgpack.unpackb(reply.content)[0]["generated_output"]["data"])


@pytest.fixture(scope="module")
def weights(engine: Path, image_worker: EngineWorker) -> Weights:
    return Weights(image_worker, engine / "models")


@pytest.fixture(scope="module", autouse=True)
def made_on_other(weights: Weights) -> bytes:
    """What the worker makes of the other model while it has had no LoRA: asked for before any test."""
    assert weights.refit("other-sd3-medium") == 200
    made = weights.made()
    assert weights.refit("tiny-sd3-medium") == 200
    return made


def test_a_refit_changes_every_module_and_the_next_one_changes_them_back(
    weights: Weights, made_on_other: bytes
) -> None:
    before, made = weights.checksums(), weights.made()
    assert weights.refit("other-sd3-medium") == 200
    after = weights.checksums()
    assert [module for module in before if before[module] == after[module]] == []
    assert weights.made() == made_on_other != made
    assert weights.refit("tiny-sd3-medium") == 200
    assert (weights.checksums(), weights.made()) == (before, made)


def test_a_refusal_before_any_lora_changes_nothing(weights: Weights) -> None:
    before = weights.checksums()
    assert weights.refit("nowhere") == 400
    assert weights.checksums() == before


def test_the_first_lora_wraps_the_layers_even_when_it_is_refused(weights: Weights) -> None:
    fresh, made = weights.checksums(), weights.made()
    assert weights.send(SET, lora_nickname="a", lora_path="/nowhere") == 500
    wrapped = weights.checksums()
    assert [module for module in fresh if fresh[module] != wrapped[module]] == ["transformer"]
    assert weights.made() == made
    assert weights.send(SET, lora_nickname="a", lora_path="/nowhere") == 500
    assert weights.checksums() == wrapped


def test_a_lora_replaces_those_before_it(weights: Weights) -> None:
    told, made = [], []
    for names, strengths in (
        (("first",), (1.0,)),
        (("second",), (1.0,)),
        (("first", "second"), (1.0, 0.5)),
        (("first",), (1.0,)),
    ):
        assert weights.set_lora(*names, strengths=strengths) == 200
        told.append(weights.transformer())
        made.append(weights.made())
    assert (told[0], made[0]) == (told[3], made[3])
    assert (len(set(told)), len(set(made))) == (3, 3)
    assert weights.send(UNMERGE) == 200


def test_without_its_lora_a_model_makes_what_it_made_and_has_another_checksum(weights: Weights) -> None:
    bare = weights.made()
    told = []
    for name in ("first", "second", "first"):
        assert weights.set_lora(name, strengths=(1.0,)) == 200
        with_it = weights.made()
        assert weights.send(UNMERGE) == 200
        assert (with_it != bare, weights.made()) == (True, bare)
        told.append(weights.transformer())
    assert (told[0] == told[2], told[0] == told[1]) == (True, False)


def test_merging_puts_the_last_lora_back(weights: Weights) -> None:
    bare = weights.made()
    assert weights.set_lora("first", strengths=(1.0,)) == 200
    with_it = weights.made()
    assert weights.send(UNMERGE) == 200
    assert weights.send(MERGE, strength=1.0) == 200
    assert weights.made() == with_it
    assert weights.send(UNMERGE) == 200
    assert weights.made() == bare


def test_a_refit_after_a_lora_says_success_and_leaves_the_wrapped_layers(
    weights: Weights, made_on_other: bytes
) -> None:
    """So no fleet may mix the two: what is made then is neither the old model's nor the new one's."""
    assert weights.send(SET, lora_nickname="a", lora_path="/nowhere") == 500
    bare = weights.made()
    assert weights.refit("other-sd3-medium") == 200
    mixed = weights.made()
    assert weights.refit("tiny-sd3-medium") == 200
    assert weights.made() == bare
    assert len({bare, mixed, made_on_other}) == 3
