"""Read the prompts of a demo from a file, one a line."""

import random
from importlib import resources
from pathlib import Path

from sglang_diffusion_routing.errors import BadSetting

FILE_MAX_BYTES = 16 * 2**20
PROMPT_MAX_CHARS = 4_000


def shipped() -> list[str]:
    """Give the prompts that come with the package."""
    return _lines((resources.files(__package__) / "prompts.txt").read_bytes(), "the shipped prompts")


def read(path: Path) -> list[str]:
    """Give the prompts of a file: its lines in UTF-8, without blank ones.

    Raises:
        BadSetting: it cannot be read, is no text, has no prompt, or is much too large.
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadSetting(f"--prompts {path}", f"cannot be read: {error.strerror or error}") from None
    if len(text) > FILE_MAX_BYTES:
        raise BadSetting(f"--prompts {path}", f"is larger than {FILE_MAX_BYTES // 2**20} MiB")
    return _lines(text, f"--prompts {path}")


def _lines(text: bytes, source: str) -> list[str]:
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BadSetting(source, f"must be text in UTF-8; the byte at {error.start} is not") from None
    prompts = [line for line in lines if line]
    if not prompts:
        raise BadSetting(source, "has no prompt in it")
    long = next((number for number, line in enumerate(lines, 1) if len(line) > PROMPT_MAX_CHARS), None)
    if long is not None:
        raise BadSetting(source, f"line {long} is longer than {PROMPT_MAX_CHARS} characters")
    return prompts


def choose(prompts: list[str], count: int, seed: int) -> list[str]:
    """Draw `count` prompts, in the order of the file; all of them when there are no more."""
    if count >= len(prompts):
        return prompts
    return [prompts[index] for index in sorted(random.Random(seed).sample(range(len(prompts)), count))]
