"""Tests of what is read again."""

import threading
from collections.abc import Callable

from structlog.testing import capture_logs

from sglang_diffusion_routing.app.reload import Reloads
from sglang_diffusion_routing.errors import BadSetting


async def test_all_is_read_in_a_thread_and_put_in_place_on_the_loop() -> None:
    reloads, did = Reloads(), []

    def part(name: str) -> Callable[[], Callable[[], None]]:
        def read() -> Callable[[], None]:
            did.append((name, "read", threading.current_thread() is threading.main_thread()))
            return lambda: did.append((name, "put", threading.current_thread() is threading.main_thread()))

        return read

    reloads.add("keys", part("keys"))
    reloads.add("certificate", part("certificate"))
    await reloads.run()
    assert did == [
        ("keys", "read", False),
        ("keys", "put", True),
        ("certificate", "read", False),
        ("certificate", "put", True),
    ]


async def test_what_cannot_be_read_stays_and_keeps_nothing_else_back() -> None:
    reloads, put = Reloads(), []

    def bad() -> Callable[[], None]:
        raise BadSetting("--api-key-file x", "holds no key")

    reloads.add("keys", bad)
    reloads.add("certificate", lambda: lambda: put.append("certificate"))
    with capture_logs() as lines:
        await reloads.run()
    assert put == ["certificate"]
    assert lines == [
        {"event": "reload_failed", "log_level": "error", "what": "keys", "why": "--api-key-file x holds no key"},
        {"event": "reloaded", "log_level": "info", "what": "certificate"},
    ]


def test_nothing_to_read_again_is_known() -> None:
    reloads = Reloads()
    assert not reloads
    reloads.add("keys", lambda: lambda: None)
    assert reloads
