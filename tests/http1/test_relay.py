import pytest

from http1.exchanges import CHUNKS, GET, OK, OK_RELAYED, POST, Under, error_code, under_way
from http1.peers import eventually, turns
from http1.relaying import REPLAY_MAX_BYTES, Relay
from sglang_diffusion_routing.http1.phase import Phase

pytestmark = pytest.mark.loopback


class TestBytes:
    @pytest.mark.parametrize(
        ("request_", "body"),
        [
            (GET, b""),
            (POST % 5, b"hello"),
            (POST % 0, b""),
            (
                b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"5;x\r\nhello\r\n0\r\nX: 1\r\n\r\n",
            ),
        ],
    )
    async def test_a_request_and_its_reply_pass_unchanged_and_the_connection_is_kept(
        self, relay: Relay, request_: bytes, body: bytes
    ) -> None:
        client = await relay.listener.connect()
        peer = None
        for _ in range(3):
            await client.send(request_ + body)
            peer = peer or await relay.workers[0].accept()
            head = await peer.read_head()
            assert head == request_.replace(b"Host: a\r\n", b"")
            assert await peer.read(len(body)) == body
            await peer.send(OK)
            assert await client.read(len(OK_RELAYED)) == OK_RELAYED
        assert [await exchange.ended() for exchange in relay.exchanges] == [[("body",), ("end", True, 200)]] * 3
        assert relay.open_connections() == [1]

    @pytest.mark.parametrize(
        ("reply", "relayed"),
        [
            (
                b"HTTP/1.1 200 Fine\r\ndate: D\r\nX: 1\r\nx: 2\r\nContent-Length: 0\r\n\r\n",
                b"HTTP/1.1 200 Fine\r\ndate: D\r\nX: 1\r\nx: 2\r\nContent-Length: 0\r\nX-Relay: 1\r\n\r\n",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
                b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
            ),
            (b"HTTP/1.1 204 None\r\n\r\n", b"HTTP/1.1 204 None\r\nX-Relay: 1\r\n\r\n"),
            (
                b"HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"HTTP/1.1 204 None\r\nX-Relay: 1\r\n\r\n",
            ),
            (
                b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
                b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\nX-Relay: 1\r\n\r\n",
            ),
            (
                b"HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
                b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nX-Relay: 1\r\n\r\nno",
            ),
            (
                b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Relay: 1\r\n\r\nok",
            ),
        ],
    )
    async def test_a_reply_is_relayed_in_any_two_pieces(self, relay: Relay, reply: bytes, relayed: bytes) -> None:
        client = await relay.listener.connect()
        for cut in range(1, len(reply) + 1):
            relay.upstreams.abort_all()
            await eventually(lambda: relay.open_connections() == [0])
            await client.send(GET)
            peer = await relay.workers[0].accept()
            await peer.read_head()
            await peer.send(*filter(None, (reply[:cut], reply[cut:])))
            assert await client.read(len(relayed)) == relayed
            await relay.exchanges[-1].ended()
        await client.send(b"GET /x HTTP/1.1\r\n\r\n")
        assert (await client.read_head()).startswith(b"HTTP/1.1 400 ")

    async def test_a_reply_to_head_ends_with_its_head(self, relay: Relay) -> None:
        client = await relay.listener.connect()
        peer = None
        for framing in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
            await client.send(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
            peer = peer or await relay.workers[0].accept()
            await peer.read_head()
            await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            assert framing in await client.read_head()
        assert relay.open_connections() == [1]

    async def test_a_body_that_ends_with_the_connection_becomes_chunks(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello", b" world, this is long enough")
        await under.peer.close()
        head = b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert await under.client.read(len(head)) == head
        chunks = b""
        while not chunks.endswith(b"0\r\n\r\n"):
            chunks += await under.client.read_some()
        pieces = chunks.split(b"\r\n")
        assert b"".join(pieces[1:-3:2]) == b"hello world, this is long enough"
        assert [int(size, 16) for size in pieces[:-3:2]] == [len(piece) for piece in pieces[1:-3:2]]
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    async def test_a_client_may_reuse_its_connection_after_that(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await under.peer.close()
        assert b"chunked" in await under.client.read_head()
        assert await under.client.read(5) == b"0\r\n\r\n"
        await under.client.send(GET)
        peer = await relay.workers[0].accept()
        await peer.read_head()
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    @pytest.mark.parametrize("close", [False, True])
    async def test_a_client_s_wish_to_close_is_met_and_told(self, relay: Relay, close: bool) -> None:
        under = await under_way(relay, GET.replace(b"Host", b"Connection: close\r\nHost") if close else GET)
        await under.peer.send(OK)
        head = await under.client.read_head()
        assert (b"Connection: close\r\n" in head) == close
        assert await under.client.read(2) == b"ok"
        if close:
            assert await under.client.read_to_end() == b""
        assert relay.open_connections() == [1]


class TestHttp10:
    HEAD = b"GET /x HTTP/1.0\r\n\r\n"

    async def test_chunks_are_decoded_and_the_connection_ends_the_body(self, relay: Relay) -> None:
        under = await under_way(relay, self.HEAD)
        await under.peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\nX: 1\r\n\r\n"
        )
        raw = await under.client.read_to_end()
        assert raw == b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nConnection: close\r\n\r\nhello"
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    async def test_a_body_that_ends_with_the_connection_stays_so(self, relay: Relay) -> None:
        under = await under_way(relay, self.HEAD)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await under.peer.close()
        raw = await under.client.read_to_end()
        assert raw == b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nConnection: close\r\n\r\nhello"

    async def test_a_body_that_is_cut_short_is_not_ended_well(self, relay: Relay) -> None:
        under = await under_way(relay, self.HEAD)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await under.client.read_head()
        await under.peer.close()
        assert await under.client.is_cut()

    async def test_it_may_keep_its_connection(self, relay: Relay) -> None:
        client = await relay.listener.connect()
        peer = None
        for _ in range(2):
            await client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            peer = peer or await relay.workers[0].accept()
            await peer.read_head()
            await peer.send(OK)
            assert await client.read_head() == (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Relay: 1\r\nConnection: keep-alive\r\n\r\n"
            )
            assert await client.read(2) == b"ok"

    @pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"\r\nhello"])
    async def test_it_may_not_where_only_the_end_of_the_connection_ends_the_body(
        self, relay: Relay, framing: bytes
    ) -> None:
        under = await under_way(relay, b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        await under.peer.send(b"HTTP/1.1 200 OK\r\n" + framing)
        if b"chunked" not in framing:
            await under.peer.close()
        raw = await under.client.read_to_end()
        assert raw == b"HTTP/1.1 200 OK\r\nX-Relay: 1\r\nConnection: close\r\n\r\nhello"

    async def test_it_sees_no_interim_reply(self, relay: Relay) -> None:
        under = await under_way(relay, self.HEAD)
        await under.peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK)
        assert (await under.client.read_to_end()).startswith(b"HTTP/1.1 200 OK\r\n")


class TestInterim:
    EXPECTING = b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    async def test_a_100_passes_to_who_waits_for_it(self, relay: Relay) -> None:
        under = await under_way(relay, self.EXPECTING)
        assert b"Expect: 100-continue\r\n" in under.head
        await under.peer.send(b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n")
        assert await under.client.read_head() == b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n"
        await under.client.send(b"hello")
        assert await under.peer.read(5) == b"hello"
        await under.peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_after_the_100_the_client_owes_its_body(self, relay: Relay) -> None:
        under = await under_way(relay, self.EXPECTING)
        relay.listener.pass_time(1000)
        await under.peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await under.client.read_head()
        relay.listener.pass_time(59)
        assert under.exchange.turns == [("body",)]
        relay.listener.pass_time(2)
        assert await error_code(under.client) == (408, "body_timeout")
        assert await under.exchange.ended() == [("body",), ("end", False, None)]

    async def test_a_refusal_instead_of_a_100_is_the_connection_s_last_reply(self, relay: Relay) -> None:
        under = await under_way(relay, self.EXPECTING)
        await under.peer.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        assert b"Connection: close\r\n" in await under.client.read_head()
        assert await under.client.read_to_end() == b""
        assert await under.peer.is_cut() in {True, False}
        assert relay.open_connections() == [0]

    @pytest.mark.parametrize("request_", [GET, POST % 2 + b"hi", EXPECTING + b"hello"])
    async def test_a_stray_100_ends_here(self, relay: Relay, request_: bytes) -> None:
        under = await under_way(relay, request_)
        await turns()
        await under.peer.send(b"HTTP/1.1 100 Continue\r\n\r\n", OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_other_interim_replies_pass_in_order(self, relay: Relay) -> None:
        under = await under_way(relay)
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        await under.peer.send(hints + OK)
        assert await under.client.read(len(hints + OK_RELAYED)) == hints + OK_RELAYED

    async def test_a_switch_of_protocols_that_nobody_asked_for_is_an_error(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        assert await error_code(under.client) == (502, "bad_upstream_reply")
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        assert relay.open_connections() == [0]


class TestWorkerFails:
    async def test_none_can_be_connected_to(self, pair: Relay) -> None:
        for worker in pair.workers:
            worker.stop()
        client = await pair.listener.connect()
        await client.send(POST % 5 + b"hello")
        assert await error_code(client) == (502, "connect_failed")
        assert await pair.exchanges[0].ended() == [
            ("body",),
            ("connect failed", str(pair.workers[0].url)),
            ("connect failed", str(pair.workers[1].url)),
            ("end", False, None),
        ]

    async def test_the_next_is_connected_to(self, pair: Relay) -> None:
        pair.workers[0].stop()
        client = await pair.listener.connect()
        await client.send(POST % 10 + b"hello")
        peer = await pair.workers[1].accept()
        await client.send(b"world")
        await peer.read_head()
        assert await peer.read(10) == b"helloworld"
        await peer.send(OK)
        assert await client.read(len(OK_RELAYED)) == OK_RELAYED

    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_a_death_before_the_reply_is_told_with_what_may_be_sent_again(self, pair: Relay, how: str) -> None:
        under = await under_way(pair, POST % 5 + b"hello")
        if how == "close":
            await under.peer.close()
        else:
            under.peer.reset()
        peer = await pair.workers[1].accept()
        assert await peer.read_head() == under.head
        assert await peer.read(5) == b"hello"
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED
        assert await under.exchange.ended() == [("body",), ("died", True), ("end", True, 200)]

    async def test_a_death_in_the_middle_of_the_head_is_one_too(self, pair: Relay) -> None:
        under = await under_way(pair)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        await under.peer.close()
        peer = await pair.workers[1].accept()
        await peer.read_head()
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_a_body_still_on_its_way_follows_to_the_next_worker(self, pair: Relay) -> None:
        under = await under_way(pair, POST % 15 + b"hello")
        await under.client.send(b"world")
        assert await under.peer.read(10) == b"helloworld"
        await under.peer.close()
        peer = await pair.workers[1].accept()
        await peer.read_head()
        assert await peer.read(10) == b"helloworld"
        await under.client.send(b"again")
        assert await peer.read(5) == b"again"
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    @pytest.mark.parametrize(("size", "replayable"), [(REPLAY_MAX_BYTES, True), (REPLAY_MAX_BYTES + 1, False)])
    @pytest.mark.parametrize("at_once", [True, False])
    async def test_only_so_much_of_a_body_is_kept(
        self, pair: Relay, size: int, replayable: bool, at_once: bool
    ) -> None:
        body = bytes(size)
        under = await under_way(pair, POST % size + (body if at_once else b""))
        if not at_once:
            await under.client.send(body[:600], body[600:])
        await under.peer.read(size)
        await under.peer.close()
        await eventually(lambda: ("died", replayable) in under.exchange.turns)
        if replayable:
            peer = await pair.workers[1].accept()
            await peer.read_head()
            assert await peer.read(size) == body
        else:
            assert await error_code(under.client) == (502, "upstream_died")

    async def test_two_deaths_are_the_client_s_to_know(self, pair: Relay) -> None:
        under = await under_way(pair)
        await under.peer.close()
        peer = await pair.workers[1].accept()
        await peer.read_head()
        await peer.close()
        assert await error_code(under.client) == (502, "upstream_died")
        assert await under.exchange.ended() == [("body",), ("died", True), ("died", True), ("end", False, None)]

    SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"

    @pytest.mark.parametrize(
        ("begun", "how"),
        [(SIZED, "close"), (SIZED, "reset"), (CHUNKED, "close"), (CHUNKED, "reset"), (CHUNKED, "junk")],
    )
    async def test_a_reply_that_breaks_off_breaks_the_client_s_off(self, pair: Relay, begun: bytes, how: str) -> None:
        under = await under_way(pair)
        await under.peer.send(begun)
        await under.client.read_head()
        if how == "close":
            await under.peer.close()
        elif how == "reset":
            under.peer.reset()
        else:
            await under.peer.send(b"junk\r\n")
        assert await under.client.is_cut()
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        assert under.exchange.worker_failed

    async def test_a_reply_without_a_length_that_breaks_off_does_too(self, pair: Relay) -> None:
        under = await under_way(pair)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await under.client.read_head()
        under.peer.reset()
        assert await under.client.is_cut()

    @pytest.mark.parametrize(
        "junk",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536,
        ],
    )
    async def test_what_is_not_http_is_an_error_and_goes_nowhere_else(self, pair: Relay, junk: bytes) -> None:
        under = await under_way(pair)
        await under.peer.send(junk)
        assert await error_code(under.client) == (502, "bad_upstream_reply")
        assert await under.exchange.ended() == [("body",), ("end", False, None)]
        assert under.exchange.worker_failed
        assert pair.workers[1].accepted.empty()

    async def test_the_client_s_connection_goes_on_after_an_error(self, relay: Relay) -> None:
        under = await under_way(relay, POST % 5 + b"hello")
        await under.peer.close()
        assert await error_code(under.client) == (502, "upstream_died")
        await under.client.send(GET)
        peer = await relay.workers[0].accept()
        await peer.read_head()
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED


class TestHeld:
    HEAD = b"HTTP/1.1 500 No\r\nX-Hold: %b\r\nContent-Length: %d\r\n\r\n"
    RELAYED = b"HTTP/1.1 500 No\r\nX-Hold: 1\r\nContent-Length: %d\r\nX-Relay: 1\r\n\r\n"

    @pytest.mark.parametrize("size", [0, 1, 100])
    async def test_a_small_reply_is_seen_before_the_client_sees_any_of_it(self, relay: Relay, size: int) -> None:
        under = await under_way(relay)
        body = b"x" * size
        await under.peer.send(self.HEAD % (b"1", size) + body[: size // 2])
        await turns()
        assert under.exchange.reply_begun == (size == 0)
        await under.peer.send(body[size // 2 :])
        expected = self.RELAYED % size + body
        assert await under.client.read(len(expected)) == expected
        assert under.exchange.held == [body]
        assert under.exchange.replied == body
        assert await under.exchange.ended() == [("body",), ("end", True, 500)]

    async def test_a_large_one_is_not_held(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(self.HEAD % (b"1", 101) + b"x")
        expected = self.RELAYED % 101 + b"x"
        assert await under.client.read(len(expected)) == expected
        assert under.exchange.held == []

    async def test_one_that_turns_out_large_is_let_go(self, relay: Relay) -> None:
        under = await under_way(relay)
        chunks = b"32\r\n" + b"x" * 50 + b"\r\n"
        await under.peer.send(b"HTTP/1.1 500 No\r\nX-Hold: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        await turns()
        assert not under.exchange.reply_begun
        await under.peer.send(chunks)
        await eventually(lambda: under.exchange.reply_begun)
        await under.peer.send(b"0\r\n\r\n")
        await under.client.read_head()
        assert await under.client.read(2 * len(chunks) + 5) == chunks * 2 + b"0\r\n\r\n"
        assert under.exchange.held == []

    async def test_one_without_a_length_is_chunked_when_it_is_let_go(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 500 No\r\nX-Hold: 1\r\n\r\nhel", b"lo")
        await under.peer.close()
        assert b"Transfer-Encoding: chunked\r\n" in await under.client.read_head()
        assert await under.client.read(15) == b"5\r\nhello\r\n0\r\n\r\n"
        assert under.exchange.held == [b"hello"]

    async def test_one_that_is_swallowed_goes_to_the_next_worker(self, pair: Relay) -> None:
        under = await under_way(pair, POST % 5 + b"hello")
        await under.peer.send(self.HEAD % (b"swallow", 4) + b"zzzz")
        peer = await pair.workers[1].accept()
        assert await peer.read_head() == under.head
        assert await peer.read(5) == b"hello"
        await peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    async def test_the_next_worker_s_may_be_held_as_well(self, pair: Relay) -> None:
        under = await under_way(pair)
        await under.peer.send(self.HEAD % (b"swallow", 100) + b"z" * 100)
        peer = await pair.workers[1].accept()
        await peer.read_head()
        await peer.send(self.HEAD % (b"1", 100) + b"y" * 50, b"y" * 50)
        expected = self.RELAYED % 100 + b"y" * 100
        assert await under.client.read(len(expected)) == expected
        assert under.exchange.held == [b"z" * 100, b"y" * 100]

    async def test_the_head_waits_for_the_first_byte_of_a_body_whatever_its_size(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        await eventually(lambda: under.exchange.phase is Phase.HOLDING)
        await under.peer.send(b"x")
        expected = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nX-Relay: 1\r\n\r\nx"
        assert await under.client.read(len(expected)) == expected
        assert under.exchange.held == []

    @pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"X-Ends: with the connection"])
    async def test_a_head_that_promises_no_bytes_goes_at_once(self, relay: Relay, framing: bytes) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        assert b"X-Relay: 1\r\n" in await under.client.read_head()

    async def test_one_that_breaks_off_has_not_begun_and_goes_to_the_next_worker(self, pair: Relay) -> None:
        under = await under_way(pair, POST % 5 + b"hello")
        await under.peer.send(self.HEAD % (b"1", 10) + b"xx")
        await under.peer.close()
        peer = await pair.workers[1].accept()
        assert await peer.read_head() == under.head
        assert await peer.read(5) == b"hello"
        await peer.send(self.HEAD % (b"1", 10) + b"yyyyy", b"zzzzz")
        expected = self.RELAYED % 10 + b"yyyyyzzzzz"
        assert await under.client.read(len(expected)) == expected
        assert under.exchange.held == [b"yyyyyzzzzz"]
        assert await under.exchange.ended() == [("body",), ("died", True), ("end", True, 500)]

    async def test_one_that_breaks_off_with_no_other_worker_is_an_error(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(self.HEAD % (b"1", 10) + b"x")
        await under.peer.close()
        assert await error_code(under.client) == (502, "upstream_died")
        assert await under.exchange.ended() == [("body",), ("died", True), ("end", False, None)]

    async def test_one_that_breaks_off_after_its_client_has_left_ends_there(self, pair: Relay) -> None:
        under = await under_way(pair)
        await under.peer.send(self.HEAD % (b"1", 10) + b"x")
        await eventually(lambda: under.exchange.phase is Phase.HOLDING)
        under.client.reset()
        await eventually(lambda: not under.exchange.has_clients)
        await under.peer.close()
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", False, None)]


class TestKeptReply:
    """A whole reply that waits for something of the router's own."""

    HEAD = b"HTTP/1.1 200 OK\r\nX-Hold: keep\r\nContent-Length: %d\r\n\r\n"
    RELAYED = b"HTTP/1.1 200 OK\r\nX-Hold: keep\r\nContent-Length: %d\r\nX-Relay: 1\r\n\r\n"

    async def kept(self, relay: Relay, request: bytes = GET) -> Under:
        """Let a reply come whole, and be kept."""
        under = await under_way(relay, request)
        await under.peer.send(self.HEAD % 5 + b"he", b"llo")
        await eventually(lambda: under.exchange.phase is Phase.KEEPING)
        return under

    async def test_it_goes_out_when_it_is_let_go_and_once(self, relay: Relay) -> None:
        under = await self.kept(relay)
        await turns(100)
        assert (under.exchange.reply_begun, under.exchange.turns) == (False, [("body",)])
        under.exchange.let_go()
        under.exchange.let_go()
        expected = self.RELAYED % 5 + b"hello"
        assert await under.client.read(len(expected)) == expected
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]
        assert under.exchange.reply_bytes == len(self.HEAD % 5) + 5
        under.exchange.let_go()
        await under.client.send(GET)
        await under.peer.read_head()
        await under.peer.send(OK)
        assert await under.client.read(len(OK_RELAYED)) == OK_RELAYED

    async def test_the_worker_s_connection_serves_others_meanwhile(self, relay: Relay) -> None:
        under = await self.kept(relay)
        other = await relay.listener.connect()
        await other.send(GET)
        await under.peer.read_head()
        await under.peer.send(OK)
        assert await other.read(len(OK_RELAYED)) == OK_RELAYED
        under.exchange.let_go()
        assert (await under.client.read_head()).startswith(b"HTTP/1.1 200")

    async def test_the_worker_s_death_changes_nothing(self, relay: Relay) -> None:
        under = await self.kept(relay)
        under.peer.reset()
        await eventually(lambda: relay.open_connections() == [0])
        assert under.exchange.turns == [("body",)]
        under.exchange.let_go()
        assert (await under.client.read_head()).startswith(b"HTTP/1.1 200")
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    async def test_one_without_a_length_is_chunked(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.peer.send(b"HTTP/1.1 200 OK\r\nX-Hold: keep\r\n\r\nhel", b"lo")
        await under.peer.close()
        await eventually(lambda: under.exchange.phase is Phase.KEEPING)
        under.exchange.let_go()
        assert b"Transfer-Encoding: chunked\r\n" in await under.client.read_head()
        assert await under.client.read(15) == b"5\r\nhello\r\n0\r\n\r\n"

    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    async def test_a_client_that_leaves_meanwhile_ends_it_well(self, relay: Relay, how: str) -> None:
        under = await self.kept(relay)
        if how == "close":
            await under.client.close()
        elif how == "reset":
            under.client.reset()
        else:
            under.client.half_close()
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]
        under.exchange.let_go()
        assert under.exchange.turns == [("body",), ("end", True, 200)]

    async def test_a_client_that_left_before_is_kept_nothing(self, relay: Relay) -> None:
        under = await under_way(relay)
        await under.client.close()
        await eventually(lambda: ("orphaned",) in under.exchange.turns)
        await under.peer.send(self.HEAD % 5 + b"hello")
        assert await under.exchange.ended() == [("body",), ("orphaned",), ("end", True, 200)]
        assert under.exchange.held == [b"hello"]

    async def test_the_rest_of_a_request_that_was_answered_early_is_dropped(self, relay: Relay) -> None:
        under = await self.kept(relay, POST % 10 + b"hello")
        await under.client.send(b"world")
        await turns()
        under.exchange.let_go()
        expected = self.RELAYED % 5 + b"hello"
        assert await under.client.read(len(expected)) == expected
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]

    async def test_whoever_joins_meanwhile_gets_it_too(self, relay: Relay) -> None:
        under = await self.kept(relay)
        relay.joins = True
        other = await relay.listener.connect()
        await other.send(GET)
        await eventually(lambda: relay.joined)
        await under.client.close()
        await turns(100)
        assert under.exchange.turns == [("body",)]
        under.exchange.let_go()
        expected = self.RELAYED % 5 + b"hello"
        assert await other.read(len(expected)) == expected
        assert await under.exchange.ended() == [("body",), ("end", True, 200)]
