"""Connections kept alive, closed and pipelined."""

import pytest

from support.client import Client, Connect, request
from support.router import RouterProcess
from support.wire import chunked
from support.worker import ScriptedWorker, echo_target

pytestmark = pytest.mark.e2e


def test_a_connection_serves_many_requests_on_both_sides(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    before = worker.work_connections
    for number in range(50):
        assert client.ask(request(b"GET", b"/%d" % number)).body == b"GET /%d " % number
    assert worker.work_connections <= before + 1


@pytest.mark.parametrize(
    "line", [b"Connection: close", b"connection: x, CLOSE", b"Connection: keep-alive, close"], ids=bytes.decode
)
def test_a_client_that_asks_to_close_is_told_so_and_closed(line: bytes, worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    reply = client.ask(request(b"GET", b"/x", line))
    assert reply.values(b"connection") == [b"close"]
    client.expect_end()


def test_what_follows_a_request_that_closes_is_not_run(
    router: RouterProcess, worker: ScriptedWorker, client: Client
) -> None:
    worker.handler = echo_target
    before = worker.requests
    client.send(request(b"GET", b"/last", b"Connection: close") + request(b"GET", b"/never"))
    assert client.read_reply().body == b"GET /last "
    client.expect_end()
    assert worker.requests == before + 1


def test_http_1_0_may_ask_to_stay(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    reply = client.ask(request(b"GET", b"/one", b"Connection: keep-alive", version=b"HTTP/1.0"))
    if reply.values(b"connection") == [b"keep-alive"]:
        assert client.ask(request(b"GET", b"/two", version=b"HTTP/1.0")).body == b"GET /two "
    client.expect_end()


def test_pipelined_requests_are_answered_in_order(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    client.send(b"".join(request(b"GET", b"/%d" % number) for number in range(100)))
    replies = [client.read_reply().body for _ in range(100)]
    assert replies == [b"GET /%d " % number for number in range(100)]


def test_a_later_pipelined_request_does_not_overtake(worker: ScriptedWorker, client: Client) -> None:
    client.send(request(b"GET", b"/first") + request(b"GET", b"/second"))
    first = worker.receive()
    assert first.target == b"/first"
    first.answer(body=b"1")
    second = worker.receive()
    assert second.target == b"/second"
    second.answer(body=b"2")
    assert [client.read_reply().body, client.read_reply().body] == [b"1", b"2"]


def test_pipelined_bodies_are_told_apart(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    one = request(b"POST", b"/1", body=b"GET /fake HTTP/1.1\r\nHost: x\r\n\r\n")
    two = request(b"POST", b"/2", b"Transfer-Encoding: chunked") + chunked(b"a", b"bc", b"\r\n0\r\n\r\n")
    three = request(b"POST", b"/3", body=b"")
    four = request(b"GET", b"/4")
    client.send(one + two + three + four)
    assert [client.read_reply().body for _ in range(4)] == [
        b"POST /1 GET /fake HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /2 abc\r\n0\r\n\r\n",
        b"POST /3 ",
        b"GET /4 ",
    ]


def test_pipelined_work_and_control_are_answered_in_order(worker: ScriptedWorker, client: Client) -> None:
    worker.handler = echo_target
    for _ in range(3):
        client.send(
            request(b"GET", b"/workers")
            + request(b"GET", b"/work")
            + request(b"HEAD", b"/head")
            + request(b"GET", b"/liveness")
        )
    for _ in range(3):
        assert client.read_reply().json()["workers"][0]["url"] == worker.url
        assert client.read_reply().body == b"GET /work "
        assert client.read_reply("HEAD").body == b""
        assert client.read_reply().status == 200


def test_a_pipeline_cut_anywhere_gives_the_same_replies(worker: ScriptedWorker, connect: Connect) -> None:
    worker.handler = echo_target
    whole = request(b"POST", b"/1", body=b"one") + request(b"POST", b"/2", b"Transfer-Encoding: chunked")
    whole += chunked(b"two") + request(b"GET", b"/3")
    for cut in range(1, len(whole), 3):
        client = connect()
        client.send(whole[:cut], whole[cut:])
        assert [client.read_reply().body for _ in range(3)] == [b"POST /1 one", b"POST /2 two", b"GET /3 "]
        client.close()


def test_a_control_connection_is_kept_alive(client: Client) -> None:
    for _ in range(5):
        assert client.ask(request(b"GET", b"/liveness")).status == 200


def test_a_deep_pipeline_does_not_starve_another_client(worker: ScriptedWorker, connect: Connect) -> None:
    worker.handler = echo_target
    greedy, modest = connect(), connect()
    greedy.send(b"".join(request(b"GET", b"/%d" % number) for number in range(300)))
    assert modest.ask(request(b"GET", b"/modest")).body == b"GET /modest "
    assert [greedy.read_reply().body for _ in range(300)] == [b"GET /%d " % number for number in range(300)]
