"""Read the keys that the settings name, at the start and whenever the files are to be read again."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from sglang_diffusion_routing.core.worker_keys import KEY, WorkerKeys
from sglang_diffusion_routing.errors import BadSetting, InvalidField
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.keys import Keys
from sglang_diffusion_routing.settings import Settings, yaml_file

FILE_MAX_BYTES = 2**20
_COMMENT = re.compile(r"\s*(#.*)?")


def access_of(settings: Settings) -> Access:
    """Give the rules that the settings ask for.

    Raises:
        BadSetting: a file of keys cannot be read, or holds none, or something else.
    """
    return Access(
        read_keys(settings),
        None if settings.worker_keys is None else read_worker_keys(Path(settings.worker_keys)),
        control_apart=settings.admin_port is not None,
        own_names=own_names(settings),
    )


def from_files(settings: Settings) -> bool:
    """Tell whether any key comes from a file, so that it can change while the router runs."""
    return any((settings.api_key_file, settings.admin_key_file, settings.worker_keys))


def rereader(settings: Settings, access: Access) -> Callable[[], Callable[[], None]]:
    """Give what reads the files again, and gives what puts the new keys in place: old ones open nothing any more."""

    def read() -> Callable[[], None]:
        fresh = access_of(settings)

        def put() -> None:
            access.keys, access.worker_keys = fresh.keys, fresh.worker_keys

        return put

    return read


def read_keys(settings: Settings) -> Keys:
    """Give the keys of clients, those of the settings with those in the files.

    Raises:
        BadSetting: naming the file; no sentence repeats what is in it.
    """
    return Keys(
        _all(settings.api_key, settings.api_key_file, "--api-key-file"),
        _all(settings.admin_key, settings.admin_key_file, "--admin-key-file"),
    )


def read_worker_keys(path: Path) -> WorkerKeys:
    """Give the keys of workers: a YAML mapping of patterns to keys.

    Raises:
        BadSetting: naming file and line; no sentence repeats a key.
    """
    pairs: list[tuple[str, str]] = []
    for entry in yaml_file.read(path, "addresses of workers to keys"):
        where = f"{path} line {entry.line}"
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise BadSetting(
                where, "must be an address and a key, both texts; what YAML takes for a number needs quotes"
            )
        pair = (entry.key, entry.value)
        try:
            WorkerKeys.parse([pair])
        except InvalidField as error:
            raise BadSetting(f"{where}:", error.message) from None
        pairs.append(pair)
    return WorkerKeys.parse(pairs)


def own_names(settings: Settings) -> tuple[str, ...]:
    """Give the names under which the machine knows itself, and those that the settings allow."""
    return tuple(dict.fromkeys(name.lower() for name in (socket.gethostname(), settings.host, *settings.allow_host)))


def _all(given: tuple[SecretStr, ...], file: str | None, flag: str) -> tuple[str, ...]:
    keys = [key.get_secret_value() for key in given]
    if file is not None:
        keys += _lines(Path(file), flag)
    return tuple(dict.fromkeys(keys))


def _lines(path: Path, flag: str) -> list[str]:
    """Read one key a line; empty lines and those that begin with # are passed over."""
    where = f"{flag} {path}"
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadSetting(where, f"cannot be read: {error.strerror or error}") from None
    if len(content) > FILE_MAX_BYTES:
        raise BadSetting(where, f"is larger than {FILE_MAX_BYTES // 2**20} MiB")
    lines = content.decode("latin-1").splitlines()
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1) if not _COMMENT.fullmatch(line)]
    for number, key in keys:
        if not KEY.fullmatch(key):
            raise BadSetting(f"{where} line {number}", "must be one key of visible ASCII characters")
    if not keys:
        raise BadSetting(where, "holds no key")
    return [key for _, key in keys]
