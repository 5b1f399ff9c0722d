import subprocess
import sys

import pytest
from fastapi import FastAPI

from sglang_diffusion_routing import sim

pytestmark = pytest.mark.core


def test_an_app_is_made_of_settings() -> None:
    assert isinstance(sim.create_app(sim.SimSettings(model="wan")), FastAPI)


def test_knowing_of_the_simulation_costs_no_numpy() -> None:
    script = "import sys, sglang_diffusion_routing.sim.cli; print({'numpy', 'fastapi'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout == "set()\n"


def test_serving_reports_a_taken_port() -> None:
    from sglang_diffusion_routing.sim.server import PortTaken, bound

    with bound(sim.SimSettings()) as listener, pytest.raises(PortTaken):
        sim.serve(sim.SimSettings(port=listener.getsockname()[1], strict_ports=True))
