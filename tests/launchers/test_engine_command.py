"""The command line of a worker, and the URL that follows from it."""

import pytest

from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.engine_command import Listening, engine_command

pytestmark = pytest.mark.core


def test_a_command_says_what_to_serve_and_where() -> None:
    config = LauncherConfig(model="m", num_gpus_per_worker=2, worker_extra_args=("--a", "1"))
    assert engine_command(config, Listening("10.0.0.1", 1, 2, 3), ["--strict-ports"]) == [
        *("sglang", "serve", "--model-path", "m", "--num-gpus", "2", "--host", "10.0.0.1", "--port", "1"),
        *("--master-port", "2", "--scheduler-port", "3", "--strict-ports", "--a", "1"),
    ]


def test_an_engine_that_needs_no_gpus_is_told_of_none() -> None:
    config = LauncherConfig(model="m", num_gpus_per_worker=0)
    assert "--num-gpus" not in engine_command(config, Listening("10.0.0.1", 1, 2, 3), [])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.0.0.2", "http://10.0.0.2:81"),
        ("gpu-1", "http://gpu-1:81"),
        ("::1", "http://[::1]:81"),
        ("[::1]", "http://[::1]:81"),
        ("0.0.0.0", "http://10.0.0.1:81"),
        ("::", "http://10.0.0.1:81"),
    ],
)
def test_a_url_has_the_host_or_for_every_address_the_machines_own(host: str, url: str) -> None:
    assert Listening(host, 81, 2, 3).url("10.0.0.1") == url
