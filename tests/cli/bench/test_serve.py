"""Tests of `bench serve`: small loads, over real workers and routers."""

import csv
import json
from pathlib import Path

import pytest

from sglang_diffusion_routing.cli.bench import serve
from sglang_diffusion_routing.cli.bench.load import Load, Outcome
from sglang_diffusion_routing.cli.bench.options import parse_serve
from sglang_diffusion_routing.cli.bench.report import Report
from sglang_diffusion_routing.cli.bench.requests import arrivals_s
from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings
from support.router import RouterProcess


@pytest.mark.e2e
def test_each_number_of_workers_meets_each_number_in_flight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--num-workers 1,2 --max-concurrency 1,4 --num-prompts 8 --simulated-seconds 0.05 --slo 30 --task rollout"
    options = parse_serve([*words.split(), "--num-outputs-per-prompt", "2", "--json", "--out", str(tmp_path)])
    assert serve.run(options, Report(as_json=True)) == 0
    runs = json.loads(capsys.readouterr().out)
    assert runs == json.loads((tmp_path / "serve.json").read_text())
    assert [(run["num_workers"], run["max_concurrency"]) for run in runs] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    for run in runs:
        assert (run["task"], run["num_prompts"], run["completed_requests"], run["completed_outputs"]) == (
            "rollout",
            8,
            8,
            16,
        )
        assert (run["failed_requests"], run["slo_attainment_rate"], run["errors"]) == (0, 1.0, {})
        # A worker does one piece at a time.
        assert run["duration"] >= 8 * 0.05 / run["num_workers"]
        assert 0.05 <= run["latency_p50"] <= run["latency_p90"] <= run["latency_p99"]
    with (tmp_path / "serve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["throughput_qps"]) for row in rows] == [run["throughput_qps"] for run in runs]
    assert list(rows[0]) == [name for name in runs[0] if name != "errors"]


@pytest.mark.loopback
def test_rates_are_tried_in_turn_with_the_same_arrivals(capsys: pytest.CaptureFixture[str]) -> None:
    with SimInThread(SimSettings(overhead_seconds=0.0, seconds_per_mpx_step=0.0)) as sim:
        words = f"--url {sim.url} --request-rate 40,20 --num-prompts 8 --width 16 --height 16 --seed 5"
        assert serve.run(parse_serve([*words.split(), "--json"]), Report(as_json=True)) == 0
    captured = capsys.readouterr()
    runs = json.loads(captured.out)
    assert [(run["request_rate"], run["completed_requests"]) for run in runs] == [(40.0, 8), (20.0, 8)]
    assert [run["duration"] >= arrivals_s(8, run["request_rate"], 5)[-1] for run in runs] == [True, True]
    assert [line.split()[:3] for line in captured.err.splitlines() if line.startswith(" given")] == [
        ["given", "40", "4096"],
        ["given", "20", "4096"],
    ]


@pytest.mark.e2e
def test_a_router_that_wants_a_key_gets_that_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("user\n")
    with SimInThread() as sim, RouterProcess([sim.url], "--api-key-file", str(tmp_path / "keys")) as router:
        words = (
            f"--url http://127.0.0.1:{router.port} --num-prompts 2 --max-concurrency 1 --width 16 --height 16 --json"
        )
        assert serve.run(parse_serve(words.split()), Report(as_json=True)) == 1
        (without,) = json.loads(capsys.readouterr().out)
        monkeypatch.setenv("SGLANG_D_ROUTER_API_KEY_FILE", str(tmp_path / "keys"))
        options = parse_serve(words.split())
        assert serve.run(options, Report(as_json=True)) == 0
        (with_key,) = json.loads(capsys.readouterr().out)
    assert [reason[:4] for reason in without["errors"]] == ["401:"]
    assert (with_key["completed_requests"], with_key["errors"]) == (2, {})
    assert "user" not in repr(options)


@pytest.mark.core
def test_workers_get_no_key_of_a_router_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_D_ROUTER_API_KEY", "user")
    assert parse_serve(["--url", "http://router:1"]).key == "user"
    assert parse_serve(["--worker-urls", "http://worker:1"]).key is None
    assert parse_serve([]).key is None


@pytest.mark.loopback
def test_a_given_address_is_loaded_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with SimInThread(SimSettings(model="wan")) as sim:
        size = "--width 16 --height 16 --num-frames 1 --num-inference-steps 1 --poll-interval 0.01"
        options = parse_serve(
            ["--url", sim.url, "--task", "video", "--max-concurrency", "2", "--num-prompts", "4", *size.split()]
        )
        assert serve.run(options, Report(as_json=False)) == 0
        assert len(sim.worker.engine.finished) == 5, "four, and one to warm up"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 video requests a run to {sim.url}: 16x16, 1 steps, outputs each: 1"
    assert [line.split()[:2] for line in lines if line.startswith(" given")] == [["given", "2"]]


@pytest.mark.loopback
def test_an_slo_may_follow_from_what_a_request_takes_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with SimInThread(SimSettings(overhead_seconds=0.3, seconds_per_mpx_step=0.0)) as sim:
        size = "--width 16 --height 16 --num-inference-steps 1 --warmup-requests 3"
        words = f"--url {sim.url} --max-concurrency 4 --num-prompts 4 --slo-scale 2.5 --json {size}"
        assert serve.run(parse_serve(words.split()), Report(as_json=True)) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["slo_scale"] == 2.5
    # By itself each takes 0.3 s and a bit.
    assert run["slo"] >= 0.75
    assert run["slo_attainment_rate"] == run["slo_met_success"] / 4


@pytest.mark.core
def test_without_a_warm_up_that_succeeds_there_is_no_such_slo() -> None:
    options = parse_serve(["--slo-scale", "3"])
    warm = (Outcome(2.0, 1, 9), Outcome(3.0, 1, 9), Outcome(7.0, 1, 9), Outcome(0.1, 0, 9, error="no"))
    assert serve._slo_s(options, Load(warm, 1.0, 0.0)) == 9.0
    assert serve._slo_s(options, Load(warm[3:], 1.0, 0.0)) is None
    assert serve._slo_s(parse_serve(["--slo", "4"]), Load(warm, 1.0, 0.0)) == 4.0


@pytest.mark.e2e
def test_a_router_is_started_before_given_workers() -> None:
    with SimInThread() as one, SimInThread() as other:
        words = ["--worker-urls", one.url, other.url, "--max-concurrency", "4", "--num-prompts", "12"]
        size = ["--width", "16", "--height", "16", "--num-inference-steps", "1"]
        assert serve.run(parse_serve([*words, *size]), Report(as_json=False)) == 0
        made = [len(sim.worker.engine.finished) for sim in (one, other)]
    assert sum(made) == 13
    assert min(made) > 0


@pytest.mark.loopback
def test_failures_are_told_with_their_reasons_and_end_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with SimInThread(SimSettings(faults='{"broken": true}')) as sim:
        words = ["--url", sim.url, "--num-prompts", "3", "--max-concurrency", "1", "--warmup-requests", "0", "--json"]
        assert serve.run(parse_serve(words), Report(as_json=True)) == 1
    captured = capsys.readouterr()
    (run,) = json.loads(captured.out)
    assert (run["failed_requests"], run["errors"]) == (3, {"500: Internal Server Error": 3})
    assert "given workers, 1 in flight: 3 x 500: Internal Server Error\n" in captured.err
