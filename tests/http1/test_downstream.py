import time

import pytest

from http1.hearing import GET, OK, refusal
from http1.listening import Listener
from http1.peers import eventually, turns
from sglang_diffusion_routing.errors import BadRequest, LoopDetected, NoRoutableWorker
from sglang_diffusion_routing.http1.downstream import PIPELINE_BYTES

pytestmark = pytest.mark.loopback


class TestRequests:
    @pytest.mark.parametrize(
        ("framing", "body"),
        [
            (b"", b""),
            (b"Content-Length: 0\r\n", b""),
            (b"Content-Length: 5\r\n", b"hello"),
            (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\nX: 1\r\n\r\n"),
        ],
    )
    async def test_a_request_in_any_two_pieces_is_heard_whole(
        self, listener: Listener, framing: bytes, body: bytes
    ) -> None:
        raw = b"POST /x HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n" + body
        client = await listener.connect()
        for number, cut in enumerate(range(1, len(raw) + 1), 1):
            await client.send(*filter(None, (raw[:cut], raw[cut:])))
            heard = await listener.hears(number)
            await eventually(lambda: heard.done)  # noqa: B023 - awaited within the turn
            assert (heard.head.target, heard.body) == (b"/x", body)
            heard.answer()
            assert await client.read(len(OK)) == OK

    async def test_a_head_byte_by_byte_is_heard(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(*(bytes([byte]) for byte in GET % 1))
        assert (await listener.hears(1)).head.target == b"/1"

    async def test_the_first_bytes_of_a_body_come_at_once_with_the_head(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        heard = await listener.hears(1)
        assert (heard.spans, heard.done) == ([b"he"], False)
        await client.send(b"l", b"lo")
        await eventually(lambda: heard.done)
        assert heard.body == b"hello"

    async def test_a_body_is_announced_before_its_first_byte(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        heard = await listener.hears(1)
        assert (heard.spans, heard.done) == ([b""], False)

    async def test_empty_lines_before_a_request_are_forgiven(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"\r\n\r\n" + GET % 1)
        (await listener.hears(1)).answer()
        await client.send(b"\r", b"\n\r", b"\n" + GET % 2)
        (await listener.hears(2)).answer()
        assert await client.read(2 * len(OK)) == OK * 2

    async def test_a_flood_of_empty_lines_costs_little(self, listener: Listener) -> None:
        client = await listener.connect()
        began_s = time.process_time()
        for _ in range(8):
            await client.send(b"\r\n" * 2**17)
        await client.send(GET % 1)
        await listener.hears(1)
        assert time.process_time() - began_s < 1.0

    async def test_the_peer_is_known(self, listener: Listener) -> None:
        client = await listener.connect()
        assert listener.connections[0].peer == client.local


class TestPipelining:
    async def test_requests_are_heard_and_answered_in_turn(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"".join(GET % number for number in range(1, 6)))
        for number in range(1, 6):
            heard = await listener.hears(number)
            await turns()
            assert [each.head.target for each in listener.heard] == [b"/%d" % n for n in range(1, number + 1)]
            heard.answer(b"%d" % number)
        expected = b"".join(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(1, 6))
        assert await client.read(len(expected)) == expected

    async def test_what_comes_in_the_moment_of_a_reply_waits_behind_what_is_there(self, listener: Listener) -> None:
        """The last bytes arrive after the reply is done and before the next request is taken up."""
        client = await listener.connect()
        rest = GET % 2 + GET % 3
        for cut in range(1, len(rest)):
            before = len(listener.heard)
            await client.send(GET % 1 + rest[:cut])
            first = await listener.hears(before + 1)
            await turns()
            client.writer.write(rest[cut:])
            first.answer()
            for number in (2, 3):
                heard = await listener.hears(before + number)
                assert heard.head.target == b"/%d" % number
                heard.answer()
            assert await client.read(3 * len(OK)) == OK * 3

    async def test_a_request_behind_a_body_is_not_taken_for_it(self, listener: Listener) -> None:
        client = await listener.connect()
        sized = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET % 2
        chunked = b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + GET % 4
        for raw, body, base in ((sized, b"hello", 0), (chunked, b"1\r\nx\r\n0\r\n\r\n", 2)):
            await client.send(raw[:-30], raw[-30:])
            first = await listener.hears(base + 1)
            await eventually(lambda: first.done)  # noqa: B023 - awaited within the turn
            assert first.body == body
            first.answer()
            second = await listener.hears(base + 2)
            assert (second.head.target, second.body, second.done) == (b"/%d" % (base + 2), b"", True)
            second.answer()

    async def test_a_thousand_requests_at_once_nest_no_calls(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send((GET % 7) * 1000)
        for number in range(1, 1001):
            (await listener.hears(number)).answer()
        assert await client.read(1000 * len(OK)) == OK * 1000

    async def test_reading_goes_on_when_what_was_read_ahead_has_been_taken_up(self, listener: Listener) -> None:
        client = await listener.connect()
        request = b"GET /%d HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1500 + b"\r\n\r\n"
        client.writer.write(b"".join(request % number for number in range(1, 201)))
        for number in range(1, 201):
            heard = await listener.hears(number)
            assert heard.head.target == b"/%d" % number
            heard.answer()
        assert await client.read(200 * len(OK)) == OK * 200

    async def test_a_request_whose_body_was_paused_to_its_end_is_followed_by_others(self, listener: Listener) -> None:
        client = await listener.connect()
        for number in (1, 2):
            await client.send(GET % number)
            heard = await listener.hears(number)
            heard.connection.pause_body()
            heard.answer()
            assert await client.read(len(OK)) == OK

    async def test_only_so_much_is_read_ahead(self, listener: Listener) -> None:
        client = await listener.connect(receive_buffer=4096)
        client.writer.write(GET % 1 + b"x" * (32 * 2**20))
        await listener.hears(1)
        assert await client.held_back() > 8 * 2**20
        assert PIPELINE_BYTES < 2**20


class TestRefusals:
    @pytest.mark.parametrize(
        ("raw", "status", "code"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
            (b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
            (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "unknown_method"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400, "bad_header"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, "bad_framing"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "unknown_transfer_coding"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_framing"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417, "unknown_expectation"),
            (b"GET /" + b"x" * 256 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
            (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
            (b"GET /" + b"x" * 3000, 414, "uri_too_long"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2048 + b"\r\n\r\n", 431, "head_too_large"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000, 431, "head_too_large"),
            (b"\x16\x03\x01\x02\x00", 400, "bad_request"),
            (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        ],
    )
    async def test_a_bad_request_is_answered_and_its_connection_ends(
        self, listener: Listener, raw: bytes, status: int, code: str
    ) -> None:
        client = await listener.connect()
        await client.send(raw)
        got, fields, body = await refusal(client)
        assert (got, body["code"], fields[b"connection"]) == (status, code, b"close")
        assert await client.read_to_end() == b""
        assert [error.code for error in listener.refusals] == [code]
        assert listener.heard == []

    async def test_the_largest_head_and_target_are_taken(self, listener: Listener) -> None:
        client = await listener.connect()
        target = b"/" + b"x" * 255
        start = b"GET %b HTTP/1.1\r\nHost: a\r\nX: " % target
        await client.send(start + b"x" * (2048 - len(start) - 4) + b"\r\n\r\n")
        assert (await listener.hears(1)).head.target == target

    async def test_nothing_behind_a_bad_request_is_read(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"GET / HTTP/1.1\r\n\r\n" + GET % 2)
        await refusal(client)
        await client.send(GET % 3)
        assert await client.read_to_end() == b""
        assert listener.heard == []

    async def test_bad_chunks_in_the_middle_end_the_conversation(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        heard = await listener.hears(1)
        await client.send(b"nonsense\r\n")
        status, fields, body = await refusal(client)
        assert (status, body["code"], fields[b"connection"]) == (400, "bad_framing", b"close")
        assert heard.events == ["gone"]
        assert heard.body == b"1\r\nx\r\n"

    async def test_a_reply_that_has_begun_cannot_become_an_error(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        heard = await listener.hears(1)
        heard.reply_begun = True
        heard.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await client.read_head()
        await client.send(b"nonsense\r\n")
        assert await client.is_cut()
        assert heard.events == ["gone"]

    async def test_an_error_that_is_not_the_request_s_keeps_the_connection(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.refuses_with = NoRoutableWorker({})
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        status, fields, body = await refusal(client)
        assert (status, body["code"], b"connection" in fields) == (503, "no_routable_worker", False)
        assert int(fields[b"retry-after"]) >= 1
        listener.refuses_with = None
        await client.send(GET % 2)
        (await listener.hears(1)).answer()
        assert await client.read(len(OK)) == OK

    async def test_an_error_with_an_unread_body_ends_the_connection(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.refuses_with = LoopDetected("x")
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhel")
        status, fields, _ = await refusal(client)
        assert (status, fields[b"connection"]) == (508, b"close")
        # What it still sends is read and dropped, or a reset would overtake the reply.
        await client.send(b"x" * 500_000)
        assert await client.read_to_end() == b""
        assert listener.heard == []

    async def test_a_bad_request_that_was_read_whole_ends_the_connection_all_the_same(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.refuses_with = BadRequest("not so")
        await client.send(GET % 1)
        status, fields, _ = await refusal(client)
        assert (status, fields[b"connection"]) == (400, b"close")
        assert await client.read_to_end() == b""

    async def test_head_gets_no_body(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.refuses_with = NoRoutableWorker({})
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"\r\nContent-Length: " in await client.read_head()
        listener.refuses_with = None
        await client.send(GET % 2)
        (await listener.hears(1)).answer()
        assert await client.read(len(OK)) == OK

    async def test_an_error_may_carry_the_request_s_id(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        (await listener.hears(1)).connection.refuse(NoRoutableWorker({}), request_id=b"r-1")
        _, fields, _ = await refusal(client)
        assert fields[b"x-request-id"] == b"r-1"

    async def test_one_that_nobody_dealt_with_has_the_client_s_or_a_fresh_one(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.refuses_with = NoRoutableWorker({})
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-1\r\n\r\n")
        assert (await refusal(client))[1][b"x-request-id"] == b"r-1"
        fresh = set()
        for request in (GET % 1, GET % 2, b"no request\r\n\r\n"):
            await client.send(request)
            fresh.add((await refusal(client))[1][b"x-request-id"])
        assert [len(each) for each in fresh] == [32, 32, 32]


class TestEnd:
    @pytest.mark.parametrize(
        "head",
        [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"],
    )
    async def test_a_client_that_wants_one_reply_gets_one(self, listener: Listener, head: bytes) -> None:
        client = await listener.connect()
        await client.send(head)
        heard = await listener.hears(1)
        assert heard.connection.must_close()
        heard.answer()
        assert await client.read_to_end() == OK

    async def test_a_reply_before_the_request_is_whole_is_the_last(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello")
        heard = await listener.hears(1)
        assert heard.connection.must_close()
        heard.answer()
        assert await client.read_to_end() == OK

    async def test_a_listener_that_closes_makes_every_reply_the_last(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        assert not heard.connection.must_close()
        listener.closing = True
        assert heard.connection.must_close()
        # Even if its head had gone out before.
        heard.answer(close=False)
        assert await client.read_to_end() == OK

    async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(self, listener: Listener) -> None:
        busy, idle = await listener.connect(), await listener.connect()
        await busy.send(GET % 1)
        heard = await listener.hears(1)
        for connection in listener.connections:
            connection.close_if_idle()
        assert await idle.read_to_end() == b""
        heard.answer()
        assert await busy.read(len(OK)) == OK

    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    @pytest.mark.parametrize("body", [b"", b"hel"])
    async def test_a_client_that_leaves_is_reported_once(self, listener: Listener, how: str, body: bytes) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body) * 2, body))
        heard = await listener.hears(1)
        if how == "close":
            await client.close()
        elif how == "reset":
            client.reset()
        else:
            client.half_close()
        await eventually(lambda: listener.gone)
        assert heard.events == ["gone"]
        assert listener.gone == listener.connections

    async def test_a_client_that_only_stops_sending_may_have_its_reply(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        heard.survives_half_close = True
        client.half_close()
        await turns()
        assert heard.events == []
        heard.answer()
        assert await client.read_to_end() == OK

    async def test_it_has_all_the_replies_that_it_asked_for(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1 + GET % 2)
        (await listener.hears(1)).survives_half_close = True
        client.half_close()
        await turns()
        listener.heard[0].answer()
        (await listener.hears(2)).answer()
        assert await client.read_to_end() == OK * 2

    async def test_a_client_that_stops_in_the_middle_of_its_body_is_gone(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        heard = await listener.hears(1)
        heard.survives_half_close = True
        client.half_close()
        await eventually(lambda: heard.events == ["gone"])

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_a_client_that_leaves_while_nothing_is_read_from_it_is_noticed(
        self, listener: Listener, how: str
    ) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello")
        heard = await listener.hears(1)
        heard.connection.pause_body()
        listener.pass_time(1)
        assert heard.events == []
        if how == "close":
            await client.close()
        else:
            client.reset()
        await turns()
        listener.pass_time(1)
        await eventually(lambda: heard.events == ["gone"])

    async def test_an_abort_is_no_clean_end(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        heard.connection.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await client.read_head()
        heard.connection.abort()
        assert await client.is_cut()
        assert heard.events == []

    async def test_nothing_is_written_to_a_client_that_has_left(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        await client.close()
        await eventually(lambda: heard.events == ["gone"])
        heard.connection.write(b"x")
        heard.connection.write_both(b"x", b"y")
        heard.connection.pause_body()
        heard.connection.resume_body()
        heard.connection.refuse(NoRoutableWorker({}))
        heard.connection.abort()


class TestBackPressure:
    async def test_a_paused_body_stays_with_the_client(self, listener: Listener) -> None:
        client = await listener.connect()
        size = 32 * 2**20
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        heard = await listener.hears(1)
        heard.connection.pause_body()
        client.writer.write(bytes(size))
        await turns(100)
        assert len(heard.body) == 0
        heard.connection.resume_body()
        await eventually(lambda: heard.done)
        assert len(heard.body) == size

    async def test_a_slow_client_is_told_of_and_so_is_its_catching_up(self, listener: Listener) -> None:
        client = await listener.connect(receive_buffer=4096)
        await client.send(GET % 1)
        heard = await listener.hears(1)
        written = 0
        while not heard.events:
            heard.connection.write(bytes(65536))
            written += 65536
            await turns(2)
            assert written < 64 * 2**20
        assert heard.events == ["full"]
        assert heard.connection.is_full
        await client.read(written)
        await eventually(lambda: heard.events == ["full", "writable"])
        assert not heard.connection.is_full

    @pytest.mark.parametrize("size", [1, 16384, 16385, 300_000])
    async def test_a_head_and_its_first_bytes_go_out_in_order(self, listener: Listener, size: int) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        heard.connection.write_both(b"head", b"x" * size)
        heard.connection.write(b"end")
        assert await client.read(size + 7) == b"head" + b"x" * size + b"end"


class TestTunnel:
    async def test_bytes_that_came_early_are_given_and_later_ones_passed(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly")
        heard = await listener.hears(1)
        await turns()
        assert heard.connection.become_tunnel() == b"early"
        await client.send(b"later")
        await eventually(lambda: heard.tunnelled == b"later")

    async def test_the_end_of_one_half_leaves_the_other(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        heard.connection.become_tunnel()
        client.half_close()
        await eventually(lambda: heard.events == ["tunnel ended"])
        heard.connection.write(b"still here")
        assert await client.read(10) == b"still here"

    async def test_a_tunnel_has_no_deadline_of_requests(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        heard.connection.become_tunnel()
        listener.pass_time(10**6)
        await client.send(b"x")
        await eventually(lambda: heard.tunnelled == b"x")


async def test_a_connection_is_counted_in_and_out_once(listener: Listener) -> None:
    clients = [await listener.connect() for _ in range(3)]
    await clients[1].close()
    await eventually(lambda: len(listener.gone) == 1)
    assert listener.gone == [listener.connections[1]]
