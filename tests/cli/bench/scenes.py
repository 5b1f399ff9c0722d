"""A small scenario, and options to play it."""

from pathlib import Path

from sglang_diffusion_routing.cli.bench.options import PolicyOptions
from sglang_diffusion_routing.cli.bench.scenarios import Kind, Scenario

SMALL = Scenario("small", "8 pieces <b> & one slow worker", (1.0, 0.5), (Kind(8, 3.0), Kind(1, 6.0, 5)), 0.3, 0.02)


def options(out: Path, **changes: object) -> PolicyOptions:
    values: dict[str, object] = {
        "scenarios": (SMALL,),
        "policies": ("least-request", "by-hand"),
        "scale": None,
        "bytes_scale": 0.5,
        "repeat": 1,
        "seed": 0,
        "out": out,
        "as_json": True,
    }
    return PolicyOptions(**{**values, **changes})  # type: ignore[arg-type]
