"""One request as a worker received it, and the means to answer it byte by byte."""

import contextlib
import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from support.deadlines import PATIENCE_S
from support.wire import Body, Stream, chunked, split_head, values

if TYPE_CHECKING:
    from support.worker import ScriptedWorker

IMAGE_TASKS = ("T2I",)


def model_list(model: str = "tiny", tasks: Sequence[str] = IMAGE_TASKS) -> bytes:
    """Give the body of GET /v1/models as SGLang-Diffusion 0.5.23 writes it, without what the router does not read."""
    entry = {"id": model, "object": "model", "task_type": tasks[0], "supported_task_types": list(tasks)}
    return json.dumps({"object": "list", "data": [entry]}).encode()


class Exchange:
    """One request on one connection of a worker; the connection waits until the exchange is finished.

    head: the request head byte for byte. fields: its fields, parsed strictly. connection: number of the connection,
    counted from 1 over those that carried work.
    """

    def __init__(self, worker: "ScriptedWorker", stream: Stream, head: bytes, connection: int) -> None:
        line, self.fields = split_head(head)
        self.method, self.target, self.version = line.split(b" ")
        self.worker = worker
        self.head = head
        self.connection = connection
        self.stream = stream
        self._body: Body | None = None
        self._finished = threading.Event()
        self.keeps_connection = False

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    @property
    def body(self) -> Body:
        """The body, read when first asked for."""
        if self._body is None:
            lengths, codings = self.values(b"content-length"), self.values(b"transfer-encoding")
            assert len(lengths) + len(codings) <= 1, f"ambiguous framing: {self.fields!r}"
            if codings:
                assert codings == [b"chunked"], codings
                self._body = self.stream.read_chunked()
            else:
                content = self.stream.read_exactly(int(lengths[0]) if lengths else 0)
                self._body = Body(content, content)
        return self._body

    def send(self, *parts: bytes) -> None:
        self.stream.send(*parts)

    def answer(self, status: int = 200, *fields: bytes, body: bytes = b"ok") -> None:
        """Read the body, send a sized reply and keep the connection."""
        _ = self.body
        self.send(sized_reply(status, *fields, body=body))
        self.finish()

    def answer_raw(self, *parts: bytes) -> None:
        """Read the body, send these bytes and keep the connection."""
        _ = self.body
        self.send(*parts)
        self.finish()

    def answer_chunked(self, *pieces: bytes, trailers: bytes = b"") -> None:
        """Read the body, send a chunked reply and keep the connection."""
        self.answer_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*pieces, trailers=trailers))

    def finish(self) -> None:
        """Give the connection back: the worker waits for its next request."""
        self.keeps_connection = True
        self._finished.set()

    def close(self, *last: bytes) -> None:
        """Send `last` and close the connection."""
        with contextlib.suppress(OSError):
            self.send(*last)
        self.stream.close()
        self._finished.set()

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        self.stream.reset()
        self._finished.set()

    def is_open(self) -> bool:
        """Tell, without waiting, whether the router has neither closed nor sent more."""
        return not self.stream.has_bytes()

    def expect_end(self) -> None:
        """Fail unless the router closes the connection without another byte."""
        if self.keeps_connection:
            assert self.stream.closed.wait(PATIENCE_S), "the connection is still open"
            return
        self.stream.expect_end()
        self.close()

    def wait_until_finished(self) -> None:
        self._finished.wait()


def sized_reply(status: int, *fields: bytes, body: bytes = b"") -> bytes:
    """Build a reply with Content-Length; `fields` are whole lines without CR LF."""
    lines = [b"HTTP/1.1 %d %s" % (status, b"OK" if status == 200 else b"Said So"), *fields]
    return b"\r\n".join(lines) + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
