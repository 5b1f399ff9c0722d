"""The README's words, run."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sglang_diffusion_routing.sim.process import SimProcess
from sglang_diffusion_routing.sim.weights import write_checkpoint
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_loop_of_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def loop" in block)
    trained: list[Any] = []

    def train(samples: Any) -> str:
        trained.append(samples)
        checkpoint = tmp_path / f"step-{len(trained)}"
        write_checkpoint(checkpoint, seed=len(trained))
        return str(checkpoint)

    small = "width=64, height=64, num_inference_steps=2, seed=7"  # large images would only prove patience
    with SimProcess() as one, SimProcess() as two, RouterProcess([one.url, two.url]) as router:
        router.wait_until_healthy(2)
        names: dict[str, Any] = {"train": train}
        exec(code.replace("localhost:30080", f"127.0.0.1:{router.port}").replace("seed=7", small), names)
        names["loop"](["a fox", "a lighthouse", "a tram"], steps=2)
        workers = httpx2.get(f"http://127.0.0.1:{router.port}/workers").json()["workers"]
    assert [[len(rollout.samples) for rollout in step] for step in trained] == [[4, 4, 4], [4, 4, 4]]
    assert {(worker["status"], worker["weight_version"]) for worker in workers} == {("active", "step-2")}
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [version for _, version, _ in lines] == ["0"] * 3 + ["step-1"] * 3
    assert {url for url, _, _ in lines} == {one.url, two.url}
    assert {latents for _, _, latents in lines} == {"Tensor(float32, [3, 16, 8, 8])"}


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.core
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    package = ROOT / "src" / "sglang_diffusion_routing"
    named = re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not ((package / name).exists() or (ROOT / name).exists())] == []
