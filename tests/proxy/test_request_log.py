"""Lines of the log about requests: one each, with what happened, and nothing that somebody else could make of it."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from http1.peers import eventually
from proxy.steps import started
from proxy.world import get, post, reply, serve, sized, world
from sglang_diffusion_routing import logs
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy import request_log
from sglang_diffusion_routing.proxy.request_log import RequestLog, facts_of
from sglang_diffusion_routing.proxy.routes import CATCH_ALL
from sglang_diffusion_routing.proxy.story import Story

Lines = list[Any]


@pytest.fixture
def written() -> Iterator[Lines]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def of_requests(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


def story(target: str = "/a", request_id: str = "r") -> Story:
    head = RequestHead(0)
    head.method, head.path = b"GET", target.encode()
    return Story(head, CATCH_ALL, ("127.0.0.1", 1), request_id, 1.0)


@pytest.mark.loopback
async def test_a_request_that_was_made_has_a_line_with_its_times_and_sizes(written: Lines) -> None:
    log = RequestLog()
    async with world(1, tellers=[log]) as one:
        client, peer, _ = await started(one, post(b"/rollout/generate?key=s3cret", b"{}", b"X-Request-Id: r-1"))
        await peer.send(sized(b"done"))
        await reply(client)
        await eventually(lambda: of_requests(written))
        (line,) = of_requests(written)
        times = {name: line.pop(name) for name in ("seconds", "queue_s", "generate_s", "relay_s")}
        assert all(0 <= took < 5 for took in times.values())
        assert line == {
            "event": "request",
            "log_level": "info",
            "method": "POST",
            "path": "/rollout/generate",
            "route": "rollout",
            "status": 200,
            "client": "127.0.0.1",
            "request_id": "r-1",
            "bytes_in": 2,
            "bytes_out": line["bytes_out"],
            "worker": str(one.workers[0].url),
            "weights": "0",
            "attempts": 1,
        }
    log.close()


@pytest.mark.loopback
async def test_what_went_wrong_is_in_the_line(written: Lines) -> None:
    log = RequestLog()
    async with world(1, tellers=[log]) as one:
        client, peer, _ = await started(one)
        await peer.drop()
        assert (await reply(client))[0] == 502
        left, peer, _ = await started(one)
        await left.drop()
        await eventually(lambda: len(of_requests(written)) == 2)
        failed, gone = of_requests(written)
        assert (failed["status"], failed["code"], "client_left" in failed) == (502, "upstream_died", False)
        assert (gone["status"], gone["client_left"], "code" in gone) == (0, True, False)
        await peer.send(sized())
    log.close()


@pytest.mark.loopback
async def test_what_is_refused_and_what_needs_no_worker_have_lines_too(written: Lines) -> None:
    log = RequestLog()
    async with world(1, tellers=[log]) as one:
        assert (await reply(await one.ask(b"GET / HTTP/1.1\r\n\r\n")))[0] == 400
        client = await one.ask(get(b"/health"))
        await serve(await one.accept_control(), sized())
        await reply(client)
        await eventually(lambda: len(of_requests(written)) == 2)
        said = [(line["route"], line["status"], line.get("code")) for line in of_requests(written)]
        assert said == [("unread", 400, "bad_host"), ("control", 200, None)]
        assert "worker" not in of_requests(written)[1]
    log.close()


@pytest.mark.core
def test_lines_are_written_until_the_end(written: Lines) -> None:
    log = RequestLog()
    for _ in range(100):
        log.ended(story())
    log.close()
    log.close()
    assert len(of_requests(written)) == 100


@pytest.mark.core
def test_a_log_that_nobody_reads_costs_lines_and_not_memory(written: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "WAITING_MAX", 10)
    may_write, is_writing = threading.Event(), threading.Event()

    class Stuck:
        def info(self, event: str, **facts: object) -> None:
            is_writing.set()
            may_write.wait(10)
            structlog.get_logger().info(event, **facts)

        def warning(self, event: str, **facts: object) -> None:
            structlog.get_logger().warning(event, **facts)

    monkeypatch.setattr(request_log, "_log", Stuck())
    log = RequestLog()
    log.ended(story())
    assert is_writing.wait(10)
    for _ in range(50):
        log.ended(story())
    may_write.set()
    log.close()
    assert len(of_requests(written)) == 11
    assert [line["lines"] for line in written if line["event"] == "request_lines_lost"] == [40]


@pytest.mark.core
@pytest.mark.parametrize("as_json", [True, False])
@given(path=st.text(min_size=1, max_size=40), request_id=st.text(max_size=40))
def test_whatever_is_asked_for_a_line_is_one_line(path: str, request_id: str, *, as_json: bool) -> None:
    """Bytes above ASCII pass in a path: among them are line separators and orders to a terminal."""
    facts = facts_of(story("/" + path.encode("utf-8", "replace").decode(), request_id))
    event = {"event": "request", **facts}
    text: object = event
    for step in logs._ending(as_json=as_json):
        text = step(None, "info", text)  # type: ignore[arg-type]
    assert isinstance(text, str)
    assert text.splitlines() == [text]
    if as_json:
        assert json.loads(text)["path"] == facts["path"]


@pytest.mark.core
def test_an_endless_id_is_cut() -> None:
    assert facts_of(story(request_id="r" * 5000))["request_id"] == "r" * 256


@pytest.mark.core
def test_bytes_that_are_no_text_are_shown_as_what_they_are() -> None:
    told = story()
    told.head.path = b"/\x9b31m\xff"
    assert facts_of(told)["path"] == "/\\x9b31m\\xff"
