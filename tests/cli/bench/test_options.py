"""Tests of the options of both benchmarks."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.bench.launched import Launcher
from sglang_diffusion_routing.cli.bench.load import Bounds
from sglang_diffusion_routing.cli.bench.options import (
    PolicyOptions,
    ServeOptions,
    parse_policies,
    parse_serve,
)
from sglang_diffusion_routing.cli.bench.requests import Shape, Task
from sglang_diffusion_routing.cli.bench.scenarios import SCENARIOS
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import RoutingAlgorithm

pytestmark = pytest.mark.core


def test_by_default_every_scenario_is_played_under_every_algorithm_and_by_hand(tmp_path: Path) -> None:
    assert parse_policies(["--out", str(tmp_path)]) == PolicyOptions(
        scenarios=tuple(SCENARIOS),
        policies=(*(algorithm.value for algorithm in RoutingAlgorithm), "by-hand"),
        scale=None,
        bytes_scale=0.01,
        repeat=1,
        seed=0,
        out=tmp_path,
        as_json=False,
    )


def test_what_is_played_can_be_chosen(tmp_path: Path) -> None:
    words = (
        "--scenario burst equal burst --policy by-hand random --scale 0.02 --bytes-scale 1 --repeat 5 --seed 3 --json"
    )
    assert parse_policies([*words.split(), "--out", str(tmp_path / "made")]) == PolicyOptions(
        scenarios=tuple(scenario for name in ("burst", "equal") for scenario in SCENARIOS if scenario.name == name),
        policies=("by-hand", "random"),
        scale=0.02,
        bytes_scale=1.0,
        repeat=5,
        seed=3,
        out=tmp_path / "made",
        as_json=True,
    )


def test_by_default_simulated_workers_are_loaded_with_small_images() -> None:
    assert parse_serve([]) == ServeOptions(
        url="",
        worker_urls=(),
        launcher=None,
        num_workers=(1, 2, 4),
        request_rate=(None,),
        max_concurrency=(1, 10, 100),
        seed=0,
        num_prompts=100,
        warmup_requests=1,
        task=Task.IMAGE,
        shape=Shape(128, 128, 20, 1, 1),
        extra={},
        simulated_s=0.1,
        policy=next(iter(RoutingAlgorithm)).value,
        slo_s=None,
        slo_scale=None,
        bounds=Bounds(request_s=600.0, run_s=1800.0, poll_s=0.25),
        out=None,
        as_json=False,
    )


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--url", "http://a:1"], Shape(512, 512, 20)),
        (["--task", "video"], Shape(128, 128, 20, 17)),
        (["--task", "video", "--num-frames", "5", "--width", "832", "--height", "480"], Shape(832, 480, 20, 5)),
        (["--num-inference-steps", "4", "--num-outputs-per-prompt", "8"], Shape(128, 128, 4, 1, 8)),
    ],
)
def test_the_size_follows_from_what_is_loaded(words: list[str], shape: Shape) -> None:
    assert parse_serve(words).shape == shape


def test_workers_that_are_given_are_all_used_unless_numbers_are_said() -> None:
    urls = ["--worker-urls", "http://a:1/", "http://b:1"]
    assert parse_serve(urls).num_workers == (2,)
    assert parse_serve([*urls, "--num-workers", "1,2,1"]).num_workers == (1, 2)
    assert parse_serve(urls).worker_urls == ("http://a:1", "http://b:1")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scenario", "brust"], "--scenario 'brust' is no scenario; there are equal, half-speed,"),
        (["--policy", "luck"], "--policy 'luck' is no policy; there are "),
        (["--scale", "0"], "--scale must be a number from 0.001 to 1, not '0'"),
        (["--bytes-scale", "nan"], "--bytes-scale must be a number above 0 and at most 1, not 'nan'"),
        (["--sclae", "1"], "--sclae is no flag of sglang-d-router bench policies; did you mean --scale?"),
        (["--out", "/dev/null/x"], "--out /dev/null/x cannot be written: "),
    ],
)
def test_bad_words_to_policies_get_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse_policies(words)
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-concurrency", "1,x"], "--max-concurrency must be a whole number from 1 to 4096, not 'x'"),
        (["--num-workers", "0"], "--num-workers must be a whole number from 1 to 64, not '0'"),
        (["--num-prompts", "1e3"], "--num-prompts must be a whole number from 1 to 100000, not '1e3'"),
        (["--url", "localhost:1"], "--url must be an address like http://127.0.0.1:30080, not 'localhost:1'"),
        (["--url", "http://[::1"], "--url must be an address like http://127.0.0.1:30080, not 'http://[::1'"),
        (["--task", "mesh"], "--task 'mesh' is no task; there are image, video, rollout"),
        (["--extra-body", "[1]"], "--extra-body must be a JSON object, not '[1]'"),
        (["--extra-body", "{"], "--extra-body must be a JSON object, not '{'"),
        (["--slo", "-1"], "--slo must be a number above 0 and at most 86400, not '-1'"),
        (["--url", "http://a", "--worker-urls", "http://b"], "--worker-urls does not go with --url: "),
        (["--worker-urls", "http://b", "--model", "m"], "--model does not go with --worker-urls: "),
        (["--launcher-config", "/x.yaml", "--model", "m"], "--launcher-config does not go with --model: "),
        (["--launcher-config", "/nowhere.yaml"], "/nowhere.yaml "),
        (["--url", "http://a", "--num-workers", "1"], "--num-workers does not go with --url: "),
        (["--slo", "1", "--slo-scale", "3"], "--slo-scale does not go with --slo: "),
        (["--slo-scale", "3", "--warmup-requests", "0"], "--slo-scale needs --warmup-requests, "),
        (["--request-rate", "0"], "--request-rate must be a number above 0 and at most 10000, not '0'"),
        (["--request-rate", "5,", "--seed", "1"], "--request-rate must be a number above 0 and at most 10000, not ''"),
        (
            ["--request-rate", "20,0.01"],
            "--request-rate 0.01 needs more than --max-seconds 1800 for the requests to come",
        ),
        (["--worker-urls", "http://a", "--num-workers", "1,2"], "--num-workers asks for more than the 1 of "),
    ],
)
def test_bad_words_to_serve_get_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse_serve(words)
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message


def test_requests_that_come_by_chance_are_held_back_by_nothing_unless_it_is_said() -> None:
    options = parse_serve(["--request-rate", "2,0.5", "--seed", "7"])
    assert (options.request_rate, options.max_concurrency, options.seed) == ((2.0, 0.5), (4096,), 7)
    assert parse_serve(["--request-rate", "2", "--max-concurrency", "3"]).max_concurrency == (3,)


def test_workers_to_start_are_those_of_a_model_or_of_a_launcher_file(tmp_path: Path) -> None:
    assert parse_serve(["--model", "m"]).launcher == Launcher("m", 1)
    asked = parse_serve(["--model", "m", "--num-workers", "1,8,2"])
    assert (asked.launcher, asked.num_workers, asked.shape.width) == (Launcher("m", 8), (1, 8, 2), 512)
    file = tmp_path / "launcher.yaml"
    file.write_text("launcher:\n  model: n\n  num_workers: 3\n")
    words = ["--launcher-config", str(file)]
    assert parse_serve(words).launcher == Launcher("n", 3, file)
    assert [parse_serve([*words, *more]).num_workers for more in ([], ["--num-workers", "1,2"])] == [(3,), (1, 2)]
    with pytest.raises(BadSetting, match="--num-workers asks for more than the 3 of --launcher-config"):
        parse_serve([*words, "--num-workers", "4"])
