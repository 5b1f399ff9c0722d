"""The simulated worker answers as the real one: route by route, refusal by refusal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from engine.image_probes import IMAGE_PROBES
from engine.likeness import likeness
from engine.probes import Asker, Probe
from engine.video_probes import VIDEO_PROBES
from engine.worker import EngineWorker
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint

MODEL, OTHER = "MODEL", "OTHER"


class Pair:
    """A real and a simulated worker of the same kind, asked the same things."""

    def __init__(self, real: EngineWorker, other: Path, simulated: SimProcess, own: Path, own_other: Path) -> None:
        self.urls = (real.url, simulated.url)
        self._names = (
            {str(other): OTHER, real.model: MODEL},
            {str(own_other): OTHER, str(own): MODEL},
        )
        self.askers = (
            Asker(real.url, model=real.model, checkpoint=str(other)),
            Asker(simulated.url, model=str(own), checkpoint=str(own_other)),
        )

    def schemas(self) -> Iterator[dict[str, Any]]:
        for url in self.urls:
            yield httpx2.get(f"{url}/openapi.json").json()

    def differences(self, probes: tuple[Probe, ...]) -> dict[str, Any]:
        """Ask both, in order; give what they answer differently."""
        found: dict[str, Any] = {}
        for probe in probes:
            real, simulated = (
                likeness(asker.ask(probe), names) for asker, names in zip(self.askers, self._names, strict=True)
            )
            if real != simulated:
                found[probe.name] = {
                    part: {"real": real[part], "simulated": simulated[part]}
                    for part in real
                    if real[part] != simulated[part]
                }
        return found


@contextmanager
def beside(real: EngineWorker, kind: Literal["sd3", "wan"], folder: Path) -> Iterator[Pair]:
    """Start a simulated worker like a real one, slow enough that what is asked next finds a long job still running."""
    own, own_other = folder / "own", folder / "other"
    write_checkpoint(own, 0, model=kind)
    write_checkpoint(own_other, 1, model=kind)
    other = Path(real.model).with_name("other-sd3-medium")
    with SimProcess(model=kind, model_path=str(own), seconds_per_mpx_step=0.5) as simulated:
        yield Pair(real, other, simulated, own, own_other)


@pytest.fixture(scope="module")
def image_pair(image_worker: EngineWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with beside(image_worker, "sd3", tmp_path_factory.mktemp("simulated-sd3")) as pair:
        yield pair


@pytest.fixture(scope="module")
def video_pair(video_worker: EngineWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with beside(video_worker, "wan", tmp_path_factory.mktemp("simulated-wan")) as pair:
        yield pair


def test_both_have_the_same_routes_and_each_is_asked(image_pair: Pair) -> None:
    real, simulated = (routes(schema) for schema in image_pair.schemas())
    assert real - simulated == set()
    assert simulated - real == set()
    asked = {(probe.method, probe.target.partition("?")[0]) for probe in IMAGE_PROBES}
    missed = {(method, path) for method, path in real if not any(method == m and fits(path, t) for m, t in asked)}
    assert missed == set()


def test_both_take_the_same_fields(image_pair: Pair) -> None:
    real, simulated = (fields(schema) for schema in image_pair.schemas())
    assert simulated == real


def test_both_answer_everything_alike_that_an_image_model_is_asked(image_pair: Pair) -> None:
    assert image_pair.differences(IMAGE_PROBES) == {}


def test_both_answer_everything_alike_that_a_video_model_is_asked(video_pair: Pair) -> None:
    assert video_pair.differences(VIDEO_PROBES) == {}


def routes(schema: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}


def fits(template: str, target: str) -> bool:
    """Tell whether a target is one of a route's: `/v1/models/{model}` fits `/v1/models/x`."""
    parts, given = template.split("/"), target.split("/")
    return len(parts) == len(given) and all(
        part == one or (part.startswith("{") and one != "") for part, one in zip(parts, given, strict=True)
    )


def fields(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give what each route takes in its target and its JSON body: types, bounds, defaults, and what is required."""
    found: dict[str, dict[str, Any]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            model = schema["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
            taken = {parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", [])}
            taken |= model.get("properties", {})
            required = model.get("required", [])
            required += [parameter["name"] for parameter in operation.get("parameters", []) if parameter["required"]]
            found[f"{method.upper()} {path}"] = {"required": sorted(required)} | {
                name: {key: value for key, value in facts.items() if key not in {"title", "description"}}
                for name, facts in taken.items()
            }
    return found
