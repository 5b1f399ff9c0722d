"""Tests of the choice of a benchmark."""

import pytest

from sglang_diffusion_routing.cli import bench
from sglang_diffusion_routing.cli.bench import serve
from sglang_diffusion_routing.cli.processes import RouterFailed
from sglang_diffusion_routing.errors import BadSetting

pytestmark = pytest.mark.core


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(BadSetting) as caught:
        bench.run(["poliices"])
    assert caught.value.message == "'poliices' is no benchmark; there are policies and serve"


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0)])
def test_both_benchmarks_are_told(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(words) == status
    out = capsys.readouterr().out
    assert "bench policies [flags]" in out
    assert "bench serve [flags]" in out


@pytest.mark.parametrize("name", ["policies", "serve"])
def test_each_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.run([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sglang-d-router bench {name} ")


def test_a_router_that_does_not_start_is_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> int:
        raise RouterFailed("the router did not start")

    monkeypatch.setattr(serve, "run", run)
    assert bench.run(["serve"]) == 1
    assert capsys.readouterr() == ("", "sglang-d-router: the router did not start\n")
