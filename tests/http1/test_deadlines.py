import socket

import pytest

from http1.hearing import GET, OK, SETTINGS, refusal
from http1.listening import Listener, listening
from http1.peers import eventually, turns
from sglang_diffusion_routing.http1.deadlines import LINGER_S

pytestmark = pytest.mark.loopback


class TestDeadlines:
    async def test_a_head_has_its_time_from_its_first_byte(self, listener: Listener) -> None:
        client = await listener.connect()
        listener.pass_time(70)
        await client.send(b"GET / HTTP/1.1\r\n")
        await turns()
        for _ in range(9):
            listener.pass_time(1)
            await client.send(b"X")
        listener.pass_time(1)
        listener.pass_time(0.5)
        status, fields, body = await refusal(client)
        assert (status, body["code"], body["timeout_s"], fields[b"connection"]) == (408, "head_timeout", 10.0, b"close")

    async def test_an_idle_connection_ends_without_a_word(self, listener: Listener) -> None:
        fresh, used = await listener.connect(), await listener.connect()
        listener.pass_time(50)
        await used.send(GET % 1)
        (await listener.hears(1)).answer()
        await used.read(len(OK))
        listener.pass_time(26)
        assert await fresh.read_to_end() == b""
        listener.pass_time(50)
        assert await used.read_to_end() == b""

    async def test_empty_lines_are_no_beginning_of_a_head(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"\r\n\r\n")
        listener.pass_time(70)
        assert (listener.refusals, listener.gone) == ([], [])
        listener.pass_time(6)
        assert await client.read_to_end() == b""
        assert listener.refusals == []

    async def test_a_conversation_whose_other_side_stalls_is_told(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        listener.pass_time(1)
        assert heard.events == []
        heard.makes_progress = False
        listener.pass_time(1)
        assert heard.events == ["stalled for 300"]

    async def test_a_silent_upload_is_given_up(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n")
        heard = await listener.hears(1)
        for _ in range(3):
            listener.pass_time(59)
            await client.send(b"x")
            await turns()
        assert heard.events == []
        listener.pass_time(61)
        status, _, body = await refusal(client)
        assert (status, body["code"], heard.events) == (408, "body_timeout", ["gone"])

    @pytest.mark.parametrize("framing", ["sized", "chunked"])
    async def test_an_upload_that_crawls_is_given_up(self, framing: str) -> None:
        field = b"Content-Length: 5000" if framing == "sized" else b"Transfer-Encoding: chunked"
        settings = SETTINGS.model_copy(update={"client_body_min_bytes": 100})

        def piece(size: int) -> bytes:
            return b"x" * size if framing == "sized" else b"%x\r\n%b\r\n" % (size, b"x" * size)

        async with listening(settings=settings) as listener:
            client = await listener.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
            heard = await listener.hears(1)
            listener.pass_time(0)
            sent = 0
            for second in range(1, 500):
                size = 3 if second < 400 else 1
                sent += len(piece(size))
                await client.send(piece(size))
                await eventually(lambda sent=sent: len(heard.body) == sent)
                listener.pass_time(1)
                if heard.events:
                    break
            # Three bytes a second are enough, one is not: 60 s after it was last enough it is over.
            assert 460 < second < 490
            status, _, body = await refusal(client)
            assert (status, body["code"], heard.events) == (408, "body_timeout", ["gone"])
            assert body["error"] == "less than 100 bytes of the request's body came within 60 s"

    async def test_an_upload_that_is_not_read_all_the_time_does_not_crawl(self) -> None:
        settings = SETTINGS.model_copy(update={"client_body_min_bytes": 100})
        async with listening(settings=settings) as listener:
            client = await listener.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
            heard = await listener.hears(1)
            for second in range(200):
                await client.send(b"x")
                await eventually(lambda second=second: len(heard.body) == second + 1)
                if second % 50 == 0:
                    heard.connection.pause_body()
                    listener.pass_time(1)
                    heard.connection.resume_body()
                listener.pass_time(1)
            assert heard.events == []

    async def test_an_upload_that_we_do_not_read_is_not_silent(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n")
        heard = await listener.hears(1)
        heard.connection.pause_body()
        listener.pass_time(1000)
        heard.connection.resume_body()
        listener.pass_time(59)
        assert heard.events == []
        listener.pass_time(2)
        assert (await refusal(client))[2]["code"] == "body_timeout"

    async def test_a_client_that_waits_for_a_100_is_not_silent(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n")
        heard = await listener.hears(1)
        listener.pass_time(1000)
        assert heard.events == []
        heard.connection.continued()
        listener.pass_time(59)
        assert heard.events == []
        listener.pass_time(2)
        assert (await refusal(client))[2]["code"] == "body_timeout"

    async def test_a_client_that_did_not_wait_for_the_100_after_all_owes_its_body(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n", b"x")
        heard = await listener.hears(1)
        await eventually(lambda: heard.body == b"x")
        listener.pass_time(61)
        assert (await refusal(client))[2]["code"] == "body_timeout"

    async def test_a_reply_that_takes_long_has_no_deadline(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        listener.pass_time(10**6)
        heard.answer()
        assert await client.read(len(OK)) == OK

    async def test_a_client_that_takes_nothing_is_cut_off(self, listener: Listener) -> None:
        client = await listener.connect(receive_buffer=4096)
        await client.send(GET % 1)
        heard = await listener.hears(1)
        client.pause()
        while not heard.events:
            heard.connection.write(bytes(65536))
            await turns(2)
        await turns()
        listener.pass_time(299)
        assert heard.events == ["full"]
        listener.pass_time(2)
        await eventually(lambda: heard.events == ["full", "gone"])

    async def test_a_client_that_takes_a_little_at_a_time_is_not(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(GET % 1)
        heard = await listener.hears(1)
        client.pause()
        transport = heard.connection.transport
        while transport.get_write_buffer_size() < 32 * 2**20:
            heard.connection.write(bytes(2**20))
            await turns(2)
        listener.pass_time(1)
        for _ in range(3):
            waiting = transport.get_write_buffer_size()
            client.resume()
            while transport.get_write_buffer_size() == waiting:
                await client.read(2**17)
            client.pause()
            listener.pass_time(299)
        assert "gone" not in heard.events

    async def test_the_rest_of_a_last_reply_is_not_waited_for_for_ever(self, listener: Listener) -> None:
        """A few bytes for a client that reads none of them would keep the connection open until it does."""
        client = await listener.connect(receive_buffer=4096)
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        heard = await listener.hears(1)
        client.pause()
        transport = heard.connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        heard.answer(bytes(60_000))
        await turns()
        assert 0 < transport.get_write_buffer_size() < 65536
        listener.pass_time(1)
        assert listener.gone == []
        listener.pass_time(301)
        await eventually(lambda: listener.gone)

    @pytest.mark.parametrize(
        "request_",
        [
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        ],
    )
    async def test_the_rest_of_a_last_reply_may_take_its_time(self, listener: Listener, request_: bytes) -> None:
        client = await listener.connect(receive_buffer=4096)
        await client.send(request_)
        heard = await listener.hears(1)
        client.pause()
        transport = heard.connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.pass_time(20)
        heard.answer(bytes(60_000))
        for _ in range(3):
            listener.pass_time(20)
            await turns()
        assert listener.gone == []
        client.resume()
        await client.read_head()
        assert await client.read(60_000) == bytes(60_000)
        assert await client.read_to_end() == b""

    async def test_after_a_refusal_a_client_has_a_moment_to_read_it(self, listener: Listener) -> None:
        client = await listener.connect()
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await refusal(client)
        listener.pass_time(LINGER_S)
        assert listener.gone == []
        listener.pass_time(0.5)
        await eventually(lambda: listener.gone)
