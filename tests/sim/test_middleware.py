import re
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx2
import pytest

from sim.conftest import Running, Start
from support.deadlines import eventually_equal

pytestmark = pytest.mark.loopback


def raw(sim: Running, *requests: bytes) -> bytes:
    """Send requests on one connection and read until the worker closes it."""
    target = urlsplit(sim.sim.url)
    assert target.hostname is not None
    with socket.create_connection((target.hostname, target.port or 0), timeout=20.0) as connection:
        for request in requests:
            connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_next_requests_fail_as_unhandled_errors_do(sim: Running) -> None:
    sim.sim.faults(fail_next=2)
    replies = [sim.image() for _ in range(3)]
    assert [reply.status_code for reply in replies] == [500, 500, 200]
    assert (replies[0].text, replies[0].headers["content-type"]) == (
        "Internal Server Error",
        "text/plain; charset=utf-8",
    )
    assert "vary" not in replies[0].headers
    assert sim.state()["done"] == 1


def test_an_unhandled_error_closes_the_socket_without_saying_so(sim: Running) -> None:
    request = b"POST /get_weights_checksum HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    started_s = time.monotonic()
    reply = raw(sim, request, request)
    assert time.monotonic() - started_s < 3.0  # far below the keep-alive of 5 s
    head = reply.partition(b"\r\n\r\n")[0].lower()
    assert reply.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"connection:" not in head
    assert reply.count(b"HTTP/1.1") == 1


def test_a_handled_error_keeps_the_connection(sim: Running) -> None:
    reply = raw(
        sim,
        b"POST /v1/set_lora HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    assert re.findall(rb"HTTP/1.1 \d+", reply) == [b"HTTP/1.1 422", b"HTTP/1.1 200"]


def test_a_cut_reply_breaks_off_in_its_body(sim: Running) -> None:
    sim.sim.faults(cut_next=1, cut_after_bytes=1000)
    with pytest.raises(httpx2.RemoteProtocolError, match="closed connection without sending complete message body"):
        sim.rollout()
    assert sim.rollout().status_code == 200
    assert [entry["ok"] for entry in sim.state()["finished"]] == [True, True]


def test_a_reply_cut_before_its_head_is_no_reply(sim: Running) -> None:
    sim.sim.faults(only_paths=["/release_memory_occupation"], cut_next=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        sim.post("/release_memory_occupation")
    assert sim.state()["sleeping"] is True


def test_a_reply_can_be_held_back(sim: Running) -> None:
    sim.sim.faults(reply_delay_s=0.2)
    started_s = time.monotonic()
    assert sim.image().status_code == 200
    assert time.monotonic() - started_s >= 0.2


def test_a_hanging_worker_answers_nothing_until_it_is_let_go(sim: Running) -> None:
    sim.sim.faults(hang=True)
    replies: list[int] = []
    waiting = threading.Thread(
        target=lambda: replies.append(httpx2.get(f"{sim.sim.url}/health", timeout=10).status_code)
    )
    waiting.start()
    eventually_equal(lambda: sim.state()["requests"], {"GET /health": 1})
    assert replies == []
    sim.sim.faults(hang=False)
    waiting.join(10.0)
    assert replies == [200]


def test_a_dead_scheduler_refuses_posts_and_answers_gets_for_ever(sim: Running) -> None:
    sim.sim.faults(scheduler_dead=True)
    sim.sim.faults(scheduler_dead=False)
    reason = "Scheduler worker exited; restart the server."
    refused = sim.image()
    assert (refused.status_code, refused.json()) == (503, {"error": reason})
    assert "vary" not in refused.headers
    health = sim.get("/health")
    assert (health.status_code, health.json()) == (503, {"status": "unhealthy", "error": reason})
    assert sim.get("/liveness").status_code == 200
    assert sim.get("/v1/models").status_code == 200
    assert sim.get("/stats").json() == {
        "status": "ok",
        "model_path": "sim/stable-diffusion-3-medium",
        "disagg": {"error": reason},
    }


def test_while_warming_up_health_is_503_and_work_waits(start: Start) -> None:
    sim = start(warmup_seconds=3600.0)
    health = sim.get("/health")
    assert (health.status_code, health.content) == (503, b"")
    assert [sim.get(path).status_code for path in ("/liveness", "/model_info", "/server_info")] == [200] * 3
    replies: list[int] = []
    calls = (sim.image, lambda: sim.get("/v1/models"))
    waiting = [threading.Thread(target=lambda call=call: replies.append(call().status_code)) for call in calls]
    for thread in waiting:
        thread.start()
    eventually_equal(lambda: {"POST /v1/images/generations", "GET /v1/models"} <= set(sim.state()["requests"]), True)
    assert replies == []
    sim.sim.finish_warmup()
    for thread in waiting:
        thread.join(10.0)
    assert replies == [200, 200]
    assert sim.get("/health").json() == {"status": "ok"}


def test_the_warm_up_ends_by_itself(start: Start) -> None:
    sim = start(warmup_seconds=0.1)
    eventually_equal(lambda: sim.get("/health").status_code, 200)


def test_requests_are_counted_by_method_and_path(sim: Running) -> None:
    sim.get("/health")
    sim.get("/health")
    sim.get("/nonexist")
    assert sim.state()["requests"] == {"GET /health": 2, "GET /nonexist": 1}


def test_every_handled_reply_names_the_worker(start: Start) -> None:
    sim = start(name="w7")
    assert [sim.get(path).headers["x-sim-worker"] for path in ("/health", "/nonexist")] == ["w7", "w7"]


def test_preflights_are_answered_as_by_a_real_worker(sim: Running) -> None:
    reply = sim.client.options(
        "/v1/images/generations", headers={"origin": "http://x", "access-control-request-method": "POST"}
    )
    assert (reply.status_code, reply.text) == (200, "OK")
    assert {name: reply.headers[name] for name in reply.headers if name.startswith("access-control")} == {
        "access-control-allow-methods": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
        "access-control-allow-origin": "http://x",
    }
    assert reply.headers["vary"] == (
        "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
    )
