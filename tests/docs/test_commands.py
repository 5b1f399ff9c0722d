"""Every command, script, program and file that the pages print: what can run here is run, in the order of the page.

A block that needs something else says so in a comment right above it, `<!-- needs: WORD -->`; `NEEDS` has the words. Of
what is not run, everything that can be told without running is checked: flags, files, targets, shape.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support.pages import PAGES, ROOT, Block, Command, blocks
from support.printed import look_at, look_at_file
from support.reader import Reader, same

pytestmark = pytest.mark.e2e

NEEDS = {
    "gpu": "a GPU with the engine",
    "engine": "the real engine: tests/engine runs it",
    "kubernetes": "a cluster; tests/e2e/test_examples.py holds the manifests against the router's settings",
    "slurm": "a cluster; tests/e2e/test_examples.py runs the batch script on a stand-in",
    "ray": "a cluster; tests/launchers/test_ray.py and tests/integrations run on a local one",
    "elsewhere": "other machines, root, or another program of the reader's",
}
NOT_RUN = {
    "make": "the targets are what CI runs; the demo is tests/e2e/test_demo.py, this is `make test`",
    "pip": "CI installs the package with every run; a registry may be out of reach",
    "git": "there is a checkout",
    "apt-get": "changes the machine",
    "docker": "there is no daemon",
    "kubectl": NEEDS["kubernetes"],
    "sbatch": NEEDS["slurm"],
    "ray": NEEDS["ray"],
    "sglang-d-router demo": "a minute; tests/e2e/test_demo.py",
    "sglang-d-router bench": "minutes; tests/e2e/test_bench.py",
    "python bench/makespan.py": "minutes; tests/tools/test_makespan.py has what runs quickly",
    "python bench/footprint.py": "minutes",
    "promtool": "tests/tools/test_alerts.py runs it where it is installed",
}
"""Why commands that begin so are not run, though all that they need may be there."""
RUN = ("console", "bash", "sh", "python")
SHOWN = ("yaml", "json", "ini", "toml")
PASSED_OVER = ("", "text", "{toctree}", "{mermaid}")

GIVEN = {
    "README.md": """
from pathlib import Path
from sglang_diffusion_routing.sim.weights import write_checkpoint

def train(samples):
    global trained
    trained = samples
    write_checkpoint(Path("trained"), seed=1)
    return str(Path("trained").absolute())
""",
}
"""What the Python of a page takes from its reader."""
THEN = {
    "README.md": """
small = {"width": 64, "height": 64, "num_inference_steps": 2}
loop([{"prompt": prompt, **small} for prompt in ("a fox", "a lighthouse")], steps=1)
assert [len(rollout.samples) for rollout in trained] == [4, 4]
""",
    "docs/client.md": """
from pathlib import Path
assert Path("boat.mp4").stat().st_size > 0
""",
}
"""What is to be done with what the page's Python defines."""


def reason(block: Block, command: Command) -> str:
    """Say why a command is not run; empty when it is."""
    if block.note.startswith("needs: "):
        return NEEDS[block.note.removeprefix("needs: ")]
    line = " ".join(command.words)
    return next((why for start, why in NOT_RUN.items() if re.match(rf"{re.escape(start)}(?![\w-])|{start}$", line)), "")


TOOLS = ("curl", "jq")
"""What pages may use beside a shell's own."""
WITH_BLOCKS = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.timeout(180)
def test_what_a_page_prints_runs(page: Path, tmp_path: Path) -> None:
    name = str(page.relative_to(ROOT))
    used = {tool for tool in TOOLS for block in blocks(page) if re.search(rf"\b{tool}\b", block.text)}
    if missing := {tool for tool in used if shutil.which(tool) is None}:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    with Reader(tmp_path) as reader:
        if name in GIVEN:
            reader.python(GIVEN[name], "GIVEN")
        for block in blocks(page):
            follow(reader, block)
        if name in THEN:
            reader.python(THEN[name], "THEN")


def follow(reader: Reader, block: Block) -> None:
    assert block.language in {*RUN, *SHOWN, *PASSED_OVER}, f"{block.where}: {block.language!r} is not run, nor shown"
    if block.note == "not ours" or block.language in PASSED_OVER:
        return
    if block.language in SHOWN:
        look_at_file(block, reader.folder)
    elif block.language == "console":
        for command in block.commands():
            follow_command(reader, block, command)
    elif block.language == "python" and not block.note.startswith("needs: "):
        reader.python(block.text, block.where)
    elif block.language == "python":
        compile(block.text, block.where, "exec")
    else:
        follow_command(reader, block, Command(block.text, ""))


def follow_command(reader: Reader, block: Block, command: Command) -> None:
    where = f"{block.where}: {command.text}"
    shown_file = re.fullmatch(r"cat ([\w./-]+)", command.text)
    if shown_file and command.output:
        (reader.folder / shown_file[1]).write_text(command.output + "\n")
        return
    if reason(block, command):
        look_at(command, reader.folder)
        return
    status, output = reader.run(command)
    assert status == 0, f"{where}\nended with {status}: {output}"
    assert "Traceback" not in output, f"{where}\n{output}"
    assert same(command.output, output), f"{where}\nthe page shows {command.output!r}, not {output!r}"


def test_every_need_is_one_of_the_table() -> None:
    notes = {block.note for page in PAGES for block in blocks(page)} - {"", "not ours"}
    assert {note for note in notes if note.startswith("needs: ")} <= {f"needs: {word}" for word in NEEDS}


def test_a_block_with_another_language_is_no_command_that_is_passed_over(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader, pytest.raises(AssertionError, match="'fish' is not run, nor shown"):
        follow(reader, Block(ROOT / "README.md", 1, "fish", "true\n", ""))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("$ false\n", "ended with 1"),
        ("$ sglang-d-router workers lsit\n", "ended with 2"),
        ("$ echo one\ntwo\n", "the page shows"),
        ("$ kubectl apply -f examples/kubernetes/wrong.yaml\n", "examples/kubernetes/wrong.yaml"),
        ("$ make demos\n", "demos"),
        ("$ sglang-d-router bench serve --requst-rate 5\n", "is no flag"),
        ("$ pip install '.[rya]'\n", "rya"),
    ],
)
def test_a_command_that_does_not_do_what_the_page_says_is_found(text: str, fault: str, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader, pytest.raises(Exception, match=re.escape(fault)):
        follow(reader, Block(ROOT / "README.md", 1, "console", text, ""))
