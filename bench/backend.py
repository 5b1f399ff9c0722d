"""The worker behind every contestant: answers at once, sends or takes as many bytes as it is asked to.

`POST /reply/N` gives N bytes; `POST /take?slow_s=S` reads its body in small sips for S seconds and then as it
comes; `POST /update_weights_from_disk` takes its time and says how long it was; anything else gets a small JSON
object. Started by the measures: `python backend.py PORT ADDRESSES`.
"""

import asyncio
import json
import random
import re
import socket
import sys

import uvloop

MODELS = (
    b'{"object":"list","data":[{"id":"bench","object":"model","root":"bench","task_type":"T2I",'
    b'"supported_task_types":["T2I"],"max_model_len":4096}]}'
)
INFO = b'{"model_path":"bench","served_model_name":"bench","is_generation":true}'
CHECKSUMS = b'{"transformer":"8c1f2e0d6a"}'
REFIT = b"/update_weights_from_disk"
REFIT_S = (0.4, 0.5)
"""Loading a checkpoint took a real worker 0.4 to 0.5 s."""
BLOB = bytes(256 * 2**20)
SIP_S = 0.02
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def small(body: bytes) -> bytes:
    """Frame a JSON reply."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


# What SGLang-Diffusion 0.5.23 answers when asked for a URL, without its file path.
IMAGE_ID = "d91a4652-f9bc-4d25-8bf1-43fc9bf2e15a"
SMALL = small(
    (
        f'{{"id":"{IMAGE_ID}","created":1795219867,"data":[{{"b64_json":null,"url":"/v1/images/{IMAGE_ID}/content",'
        '"revised_prompt":"a cat","resize":null}],"peak_memory_mb":null,"inference_time_s":0.0628,"usage":null}'
    ).encode()
)
BY_PATH = {
    b"/v1/models": small(MODELS),
    b"/server_info": small(INFO),
    b"/get_model_info": small(INFO),
    b"/get_weights_checksum": small(CHECKSUMS),
}


class Connection(asyncio.Protocol):
    """One connection: requests in turn, bodies counted and dropped."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._chunked_tail: bytes | None = None
        self._slow_until_s = 0.0
        self._reply: tuple[bytes, ...] = ()
        self._is_refit = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            data = self._take_body(data) if self._reply else self._take_head(data)
        if self._reply and self._slow_until_s:
            self._sip()

    def _take_head(self, data: bytes) -> bytes:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, rest = self._head[:end], self._head[end + 4 :]
        self._head = b""
        target = head[: head.find(b"\r\n")].split(b" ")[1]
        path, _, query = target.partition(b"?")
        self._reply = self._answer(path)
        self._is_refit = path == REFIT
        length = LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        self._chunked_tail = b"" if b"chunked" in head.lower() else None
        if query.startswith(b"slow_s="):
            self._slow_until_s = asyncio.get_running_loop().time() + float(query[7:])
        if not self._left and self._chunked_tail is None:
            self._finish()
        return rest

    def _take_body(self, data: bytes) -> bytes:
        if self._chunked_tail is not None:
            # Bodies of the bench are zeros, so that nothing but the end looks like the end.
            self._chunked_tail = (self._chunked_tail + data[-5:])[-5:]
            if self._chunked_tail == b"0\r\n\r\n":
                self._finish()
            return b""
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        if not self._left:
            self._finish()
        return rest

    def _answer(self, path: bytes) -> tuple[bytes, ...]:
        if path.startswith(b"/reply/"):
            size = int(path[7:])
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % size
            return head, memoryview(BLOB)[:size]
        return (BY_PATH.get(path, SMALL),)

    def _finish(self) -> None:
        if self._is_refit:
            loop = asyncio.get_running_loop()
            loop.call_later(random.uniform(*REFIT_S), self._end_refit, loop.time())
        else:
            self._write()

    def _end_refit(self, began_s: float) -> None:
        took_s = asyncio.get_running_loop().time() - began_s
        self._reply = (small(json.dumps({"success": True, "message": "Updated.", "seconds": took_s}).encode()),)
        self._write()

    def _write(self) -> None:
        for part in self._reply:
            self._transport.write(part)
        self._reply = ()
        self._slow_until_s = 0.0

    def _sip(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() > self._slow_until_s:
            self._slow_until_s = 0.0
            return
        self._transport.pause_reading()
        loop.call_later(SIP_S, self._transport.resume_reading)


async def serve(port: int, addresses: int) -> None:
    """Listen on 127.0.0.1 or, for several, on 127.10.0.1 and up, all at one port."""
    loop = asyncio.get_running_loop()
    servers = []
    for host in hosts(addresses):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        servers.append(await loop.create_server(Connection, sock=listener, backlog=1024))
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def hosts(count: int) -> list[str]:
    """Name the loopback addresses of `count` workers."""
    if count == 1:
        return ["127.0.0.1"]
    return [f"127.10.{number // 250}.{number % 250 + 1}" for number in range(count)]


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
