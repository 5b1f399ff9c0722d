"""What can be said of a printed command without running it: its flags, files and targets are there."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from sglang_diffusion_routing import errors
from sglang_diffusion_routing.cli import COMMANDS, REMOTE, remote
from sglang_diffusion_routing.cli.bench import options as bench
from sglang_diffusion_routing.cli.completion import run as completion
from sglang_diffusion_routing.cli.demo import options as demo
from sglang_diffusion_routing.cli.serve import parse, parser
from sglang_diffusion_routing.launchers import config
from sglang_diffusion_routing.settings import load
from sglang_diffusion_routing.sim.settings import SimSettings
from support.pages import ROOT, Block, Command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):.*?##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
CODES = {
    error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.RouterError)
}


def look_at(command: Command, folder: Path) -> None:
    """See that a command could be run by somebody who has what it needs.

    Args:
        folder: where it would be run.
    """
    subprocess.run(["bash", "-n"], input=command.text, text=True, check=True)
    for line in command.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||;", line):
            words = _words(part)
            if words and words[0] in _LOOKS:
                _LOOKS[words[0]](words[1:], folder)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # cut within quotes
        return []
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in {"exec", "sudo"}):
        del words[0]
    return [word for word in words if word != "&"]


def look_at_ours(words: Sequence[str], folder: Path) -> None:
    """See that `sglang-d-router` takes these words."""
    name = words[0] if words and not words[0].startswith("-") else "serve"
    rest = list(words[1:] if words[:1] == [name] else words)
    assert name in COMMANDS, f"sglang-d-router has no command {name!r}"
    if {"--help", "--version"} & set(rest):
        return
    if name == "serve":
        parse(rest, {})
    elif name in REMOTE:
        remote.parser_of(name).parse(rest)
    elif name == "bench":
        assert rest[:1] in (["policies"], ["serve"], []), rest
        if rest:
            out = ["--out", str(folder / "out")] if "--out" not in rest else []
            # A launcher file is one of the page's reader.
            (bench.parse_policies if rest[0] == "policies" else bench.parse_serve)([*rest[1:], *out])
    elif name == "demo":
        demo.parse(rest)
    elif name == "sim":
        flags = {"--" + field.replace("_", "-") for field in SimSettings.model_fields}
        assert {word for word in rest if word.startswith("--")} <= flags, rest
    else:
        assert completion(rest) == 0


def _look_at_make(words: Sequence[str], folder: Path) -> None:
    assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= TARGETS, words


def _look_at_pip(words: Sequence[str], folder: Path) -> None:
    for word in words:
        for name, extras in re.findall(r"^([\w.-]+)\[([\w,]+)\]$", word):
            if name in {".", PROJECT["name"]}:
                assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]), word


def _look_at_files(words: Sequence[str], folder: Path) -> None:
    for word in words:
        if re.match(r"(examples|bench|tools|tests|docs|src)/", word):
            assert (ROOT / word).exists(), word


_LOOKS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "sglang-d-router": look_at_ours,
    "make": _look_at_make,
    "pip": _look_at_pip,
    **dict.fromkeys(("kubectl", "docker", "sbatch", "python", "python3", "helm"), _look_at_files),
}


def look_at_file(block: Block, folder: Path) -> None:
    """See that a block that shows a file, or a body, is one that its reader takes."""
    _SHAPES[block.language](block.text, folder)


def _look_at_yaml(text: str, folder: Path) -> None:
    file = folder / "shown.yaml"
    for document in yaml.safe_load_all(text):
        file.write_text(yaml.safe_dump(document))
        match document:
            case {"launcher": _}:
                config.read(file)
            case {"apiVersion": _, "kind": _, "metadata": {"name": _}}:
                pass
            case {"groups": [*_]} | {"scrape_configs": [*_]} | {"services": {}}:
                pass  # Prometheus, Grafana, Compose: not ours to read
            case [*items]:
                assert all(isinstance(item, str) or "url" in item for item in items), items
            case _:
                load({}, {}, file)


def _look_at_json(text: str, folder: Path) -> None:
    shown: Any = json.loads(text)
    if isinstance(shown, dict) and "code" in shown:
        assert shown["code"] in CODES


def _look_at_ini(text: str, folder: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(text)
    for section in unit.values():
        words = shlex.split(section.get("ExecStart", ""))
        if words and words[0].endswith("sglang-d-router"):
            look_at_ours(words[1:], folder)


_SHAPES: dict[str, Callable[[str, Path], None]] = {
    "yaml": _look_at_yaml,
    "json": _look_at_json,
    "ini": _look_at_ini,
    "toml": lambda text, folder: tomllib.loads(text) and None,
}


def flags_of(built: argparse.ArgumentParser) -> set[str]:
    """Give every flag of a parser and of the actions below it."""
    found = set(built._option_string_actions)
    for action in built._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(flags_of, action.choices.values()))
    return found


def our_flags() -> set[str]:
    """Give every flag of every command of ours."""
    built = [parser(), *map(remote.parser_of, REMOTE)]
    found = set().union(*map(flags_of, built))
    found |= {"--" + field.replace("_", "-") for field in SimSettings.model_fields}
    return found | _written_flags()


def _written_flags() -> set[str]:
    """Give those of the demo and the benchmarks, whose parsers are not handed out."""
    cli = ROOT / "src" / "sglang_diffusion_routing" / "cli"
    texts = [path.read_text(encoding="utf-8") for name in ("demo", "bench") for path in (cli / name).glob("*.py")]
    return set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', "".join(texts)))
