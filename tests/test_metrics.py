import re

import pytest

from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.metrics import Declared, Kind

pytestmark = pytest.mark.core

DECLARED = [value for value in vars(metrics).values() if isinstance(value, Declared)]


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_a_name_has_the_prefix_and_counters_end_in_total(declared: Declared) -> None:
    assert re.fullmatch(r"sgld_router_[a-z_]+", declared.name)
    assert declared.name.endswith("_total") is (declared.kind is Kind.COUNTER)
    assert declared.meaning


def test_no_name_is_declared_twice() -> None:
    names = [declared.name for declared in DECLARED]
    assert len(names) == len(set(names)) > 10


def test_samples_are_written_in_prometheus_text_format() -> None:
    written = metrics.render(
        {
            metrics.LEASES: [((), 3)],
            metrics.PROBES: [(("succeeded",), 7), (('qu"ote',), 1)],
        }
    ).decode()
    assert written == (
        "# HELP sgld_router_leases live leases\n"
        "# TYPE sgld_router_leases gauge\n"
        "sgld_router_leases 3.0\n"
        "# HELP sgld_router_probes_total health probes by outcome\n"
        "# TYPE sgld_router_probes_total counter\n"
        'sgld_router_probes_total{outcome="succeeded"} 7.0\n'
        'sgld_router_probes_total{outcome="qu\\"ote"} 1.0\n'
    )
