"""A worker that dies costs the client nothing but time, while another is there and nothing was answered yet."""

from collections.abc import Callable
from functools import partial

import pytest

from support.client import Client, Connect, cut_short, request
from support.deadlines import eventually, eventually_equal
from support.exchange import Exchange, sized_reply
from support.router import RouterProcess
from support.wire import chunked
from support.worker import ScriptedFleet, echo_target

pytestmark = pytest.mark.e2e

IMAGES = b"/v1/images/generations"
BODIES = {
    "sized": request(b"POST", IMAGES, b"X-Kept: 1", body=b'{"prompt":"x"}' * 1000),
    "chunked": request(b"POST", IMAGES, b"X-Kept: 1", b"Transfer-Encoding: chunked") + chunked(b'{"prompt":', b'"x"}'),
    "empty": request(b"POST", IMAGES, b"X-Kept: 1", body=b""),
    "none": request(b"POST", b"/rollout/generate", b"X-Kept: 1"),
    "get": request(b"GET", b"/model_info", b"X-Kept: 1"),
    "1 MiB": request(b"POST", IMAGES, b"X-Kept: 1", body=b"x" * 1_000_000),
}
WAYS_TO_GO: dict[str, Callable[[Exchange], None]] = {
    "killed": lambda exchange: exchange.worker.die(),
    "connection reset": lambda exchange: exchange.reset(),
    "connection closed": lambda exchange: exchange.close(),
}


def kept(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Give the fields that are the same whichever worker gets the request; of a trace, what names it as a whole."""
    fields = []
    for name, value in exchange.fields:
        if name == b"traceparent":
            fields.append((name, value.split(b"-")[1]))
        elif name != b"Host":
            fields.append((name, value))
    return fields


@pytest.mark.parametrize("go", [pytest.param(go, id=name) for name, go in WAYS_TO_GO.items()])
@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in BODIES.items()])
def test_a_request_whose_worker_goes_before_its_reply_is_sent_again_as_it_was(
    sent: bytes, go: Callable[[Exchange], None], router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(sent)
    first = fleet.receive()
    body = first.body
    go(first)
    second = fleet.receive()
    # One that only lost an idle connection may be asked again.
    assert second.worker is fleet.other(first.worker) or first.worker.is_listening
    assert (second.method, second.target, kept(second)) == (first.method, first.target, kept(first))
    assert second.body == body
    second.answer(body=b"the image")
    reply = client.read_reply(first.method.decode())
    assert (reply.status, reply.body) == (200, b"the image")
    router.wait_until_idle()


def test_a_worker_that_dies_while_a_request_is_being_sent_is_replaced(
    router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(request(b"POST", IMAGES, b"Content-Length: 300000") + b"a" * 100_000)
    first = fleet.receive()
    assert first.stream.read_exactly(100_000) == b"a" * 100_000
    first.worker.die()
    client.send(b"b" * 200_000)
    second = fleet.receive()
    assert second.body.content == b"a" * 100_000 + b"b" * 200_000
    second.answer()
    assert client.read_reply("POST").status == 200


def test_a_body_above_the_cap_is_not_kept_for_another_worker(
    router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(request(b"POST", IMAGES, body=b"x" * 1_200_000))
    first = fleet.receive()
    assert len(first.body.content) == 1_200_000
    first.worker.die()
    reply = client.read_reply("POST")
    assert (reply.status, reply.code) == (502, "upstream_died")
    assert reply.json()["workers"] == [first.worker.url]
    router.wait_until_idle()


def test_two_workers_that_die_are_both_named(router: RouterProcess, fleet: ScriptedFleet, client: Client) -> None:
    client.send(BODIES["sized"])
    first = fleet.receive()
    _ = first.body
    first.worker.die()
    second = fleet.receive()
    _ = second.body
    second.worker.die()
    reply = client.read_reply("POST")
    assert (reply.status, reply.code) == (502, "upstream_died")
    assert reply.json()["workers"] == [first.worker.url, second.worker.url]
    assert first.worker.url in reply.json()["error"]
    assert second.worker.url in reply.json()["error"]


def test_a_reply_that_has_begun_is_never_begun_again(
    router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(BODIES["sized"])
    first = fleet.receive()
    _ = first.body
    first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
    client.read_head()
    first.worker.die()
    try:
        rest = client.read_to_end()
    except ConnectionResetError:
        rest = b""
    assert len(rest) < 1000
    router.wait_until_idle()
    assert fleet.other(first.worker).drop_arrivals() == []


def test_a_refused_connection_goes_unseen(router: RouterProcess, fleet: ScriptedFleet, connect: Connect) -> None:
    fleet.workers[0].die()
    for worker in fleet.workers:
        worker.handler = echo_target
    for number in range(10):
        reply = connect().ask(request(b"POST", IMAGES, body=b"%d" % number))
        assert (reply.status, reply.body) == (200, b"POST %b %d" % (IMAGES, number))
        assert reply.values(b"x-sglang-router-worker") == [fleet.workers[1].url.encode()]


def test_a_dead_worker_is_quarantined_at_once_and_returns_by_itself(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    dead, alive = fleet.workers
    dead.die()
    eventually(router.statuses, lambda statuses: statuses == {dead.url: "quarantined", alive.url: "active"})
    dead.listen()
    eventually(router.statuses, lambda statuses: statuses == {dead.url: "active", alive.url: "active"})


def test_without_any_worker_left_there_is_a_503_that_says_so(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    for worker in fleet.workers:
        worker.die()
    eventually(router.statuses, lambda statuses: set(statuses.values()) == {"quarantined"})
    reply = connect().ask(BODIES["sized"])
    assert (reply.status, reply.code) == (503, "no_routable_worker")
    assert reply.json()["by_status"] == {"quarantined": 2}
    assert int(reply.values(b"retry-after")[0]) >= 1


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 502, 503, 504])
def test_an_answer_is_an_answer_whatever_its_status(
    status: int, router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(BODIES["sized"])
    exchange = fleet.receive()
    exchange.answer(status, b"Content-Type: text/plain", body=b"Internal Server Error")
    reply = client.read_reply("POST")
    assert (reply.status, reply.body) == (status, b"Internal Server Error")


def test_a_long_error_is_passed_on_as_it_comes(router: RouterProcess, fleet: ScriptedFleet, client: Client) -> None:
    client.send(BODIES["sized"])
    exchange = fleet.receive()
    _ = exchange.body
    exchange.send(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n" + b"e" * 10_000 + b"\r\n")
    assert b" 500 " in client.read_head()
    exchange.send(b"0\r\n\r\n")
    exchange.finish()
    assert client.read_chunked().content == b"e" * 10_000


def test_a_short_error_that_breaks_off_was_no_answer(
    router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(BODIES["sized"])
    first = fleet.receive()
    _ = first.body
    first.close(b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\npart")
    second = fleet.receive()
    assert second.worker is fleet.other(first.worker)
    _ = second.body
    second.answer(body=b"samples")
    assert client.read_reply("POST").body == b"samples"
    router.wait_until_idle()


def test_a_sleeping_worker_is_found_out_and_its_work_goes_elsewhere(
    router: RouterProcess, fleet: ScriptedFleet, client: Client
) -> None:
    client.send(request(b"POST", b"/rollout/generate", body=b'{"prompt":"x"}'))
    first = fleet.receive()
    first.answer(
        500,
        b"content-type: application/json",
        body=b'{"detail":"Server is sleeping. Call resume_memory_occupation first."}',
    )
    second = fleet.receive()
    assert second.worker is fleet.other(first.worker)
    assert second.body.content == b'{"prompt":"x"}'
    second.answer(body=b"samples")
    assert client.read_reply("POST").body == b"samples"
    eventually_equal(router.statuses, {first.worker.url: "sleeping", second.worker.url: "active"})
    wake(client, first)
    eventually_equal(router.statuses, {first.worker.url: "active", second.worker.url: "active"})


def wake(client: Client, asleep: Exchange) -> None:
    """Resume every sleeping worker through the router."""
    done = sized_reply(200, b"content-type: application/json", body=b'{"success":true,"sleeping":false,"message":"ok"}')
    asleep.worker.automatic[(b"POST", b"/resume_memory_occupation")] = done
    assert client.ask(request(b"POST", b"/resume_memory_occupation", body=b"")).status == 200


def test_a_worker_that_fails_five_times_while_another_succeeds_is_quarantined() -> None:
    with ScriptedFleet(2) as fleet, RouterProcess(fleet.urls) as router, Client(router.port) as client:
        router.wait_until_healthy(2)
        broken, sound = fleet.workers
        broken.handler = partial(Exchange.answer, status=500, body=b"Internal Server Error")
        sound.handler = echo_target
        statuses = [client.ask(BODIES["sized"]).status for _ in range(20)]
        assert statuses.count(500) == 5
        assert statuses[-8:] == [200] * 8
        assert router.statuses() == {broken.url: "quarantined", sound.url: "active"}


def test_the_last_worker_is_not_quarantined_for_its_failures() -> None:
    with ScriptedFleet(1) as fleet, RouterProcess(fleet.urls) as router, Client(router.port) as client:
        router.wait_until_healthy(1)
        fleet.workers[0].handler = partial(Exchange.answer, status=500, body=b"Internal Server Error")
        assert [client.ask(BODIES["sized"]).status for _ in range(12)] == [500] * 12
        assert router.statuses() == {fleet.workers[0].url: "active"}


def test_a_reused_connection_that_closes_at_the_same_moment_is_replaced(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    """A worker closes idle connections; the request that crosses the close on its way is not lost."""
    client = connect()
    for worker in fleet.workers:
        worker.handler = echo_target
    for _ in range(4):
        assert client.ask(request(b"GET", b"/warm")).status == 200
    closed: list[Exchange] = []

    def close_first(exchange: Exchange) -> None:
        if closed:
            echo_target(exchange)
        else:
            closed.append(exchange)
            exchange.close()

    for worker in fleet.workers:
        worker.handler = close_first
    assert client.ask(request(b"POST", b"/again", body=b"content")).body == b"POST /again content"
    assert len(closed) == 1


def test_work_on_a_dead_worker_ends_when_the_worker_does(
    router: RouterProcess, fleet: ScriptedFleet, connect: Connect
) -> None:
    """Both streams of one worker break; the other worker's go on."""
    clients = [connect() for _ in range(4)]
    for client in clients:
        client.send(request(b"POST", IMAGES, body=b"x"))
    exchanges = [fleet.receive() for _ in clients]
    for exchange in exchanges:
        _ = exchange.body
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + b"01234")
    victim = exchanges[0].worker
    victim.die()
    eventually_equal(router.in_flight, {victim.url: 0, fleet.other(victim).url: 2})
    for exchange in exchanges:
        if exchange.worker is not victim:
            exchange.send(b"56789")
            exchange.finish()
    outcomes = sorted(outcome(client) for client in clients)
    assert outcomes == ["cut", "cut", "whole", "whole"]


def outcome(client: Client) -> str:
    """Tell how a reply of ten bytes ended."""
    try:
        cut_short(client)
    except AssertionError:
        return "whole"
    return "cut"
