"""A real and a simulated worker side by side, and where they differ."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2

from engine.likeness import likeness
from engine.probes import Asker, Probe
from engine.worker import EngineWorker
from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint

MODEL, OTHER = "MODEL", "OTHER"


class Pair:
    """A real and a simulated worker of the same kind, asked the same things."""

    def __init__(self, real: EngineWorker, other: Path, simulated: SimProcess, own: Path, own_other: Path) -> None:
        self.real, self.simulated = real, simulated
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
