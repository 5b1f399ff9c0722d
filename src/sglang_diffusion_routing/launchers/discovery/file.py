"""Read workers from a file: a URL a line, or a YAML list with labels and caps."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from sglang_diffusion_routing.core.discovery import Named
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidWorkerUrl
from sglang_diffusion_routing.launchers.discovery.reading import Unreadable, checked
from sglang_diffusion_routing.schemas import WorkerEntry

FILE_MAX_BYTES = 2**20
"""Some twenty thousand lines; more is not a list of workers."""

SETTLED_S = 1.0
"""A file that was written this long ago is taken to be whole; a younger one must be the same this much later."""

_YAML_LIST = re.compile(r"\A(?:\s*#[^\n]*\n|\s*\n|---[^\n]*\n)*\s*[-\[]")


class FileReader:
    """Reads a file anew each time: whoever replaces it by renaming, or a Kubernetes ConfigMap, changes its inode."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def read(self) -> Sequence[Named]:
        """Give the workers that the file lists.

        Raises:
            Unreadable: it is not there, is being written, names nobody, or a line is no worker.
        """
        # In a thread, since a file on a network may take its time.
        text, age_s = await asyncio.to_thread(_contents, self._path)
        if age_s <= SETTLED_S:
            await asyncio.sleep(SETTLED_S)
            again, _ = await asyncio.to_thread(_contents, self._path)
            if again != text:
                raise Unreadable("is being written")
        return checked(parse(text))

    async def aclose(self) -> None:
        """Hold nothing."""


def _contents(path: Path) -> tuple[bytes, float]:
    """Give what the file holds and how long ago it was written, in seconds; below 0 if its clock is ahead."""
    try:
        with path.open("rb") as file:
            age_s = time.time() - path.stat().st_mtime
            text = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from None
    if len(text) > FILE_MAX_BYTES:
        raise Unreadable(f"is larger than {FILE_MAX_BYTES // 2**20} MiB")
    return text, age_s


def parse(text: bytes) -> list[Named]:
    """Read a list of workers.

    Either a URL a line, or a YAML list of URLs and of mappings with `url`, `labels` and `max_concurrency`; `#` begins
    a comment in both.

    Raises:
        Unreadable: naming the line that is no worker.
    """
    try:
        plain = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8") from None
    return list(_yaml_entries(plain) if _YAML_LIST.match(plain) else _lines(plain))


def _lines(text: str) -> Iterator[Named]:
    for number, line in enumerate(text.splitlines(), 1):
        url = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if url:
            yield _named({"url": url}, number)


def _yaml_entries(text: str) -> Iterator[Named]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        for item in root.value if isinstance(root, yaml.SequenceNode) else ():
            value = loader.construct_object(item, deep=True)
            yield _named(value if isinstance(value, dict) else {"url": value}, item.start_mark.line + 1)
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        raise Unreadable(f"is not valid YAML{f' at line {mark.line + 1}' if mark else ''}") from None


def _named(entry: object, line: int) -> Named:
    try:
        given = WorkerEntry.model_validate(entry)
        url = WorkerUrl.parse(given.url)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise Unreadable(f"has no worker in line {line}: {where}: {fault['msg'].lower()}") from None
    except InvalidWorkerUrl as error:
        raise Unreadable(f"has no worker in line {line}: {error.message}") from None
    labels = None if given.labels is None else tuple(sorted(given.labels.items()))
    return Named(url, labels, given.max_concurrency)
