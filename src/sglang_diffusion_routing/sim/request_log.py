"""A record of requests by their ids, in a file that outlives the worker that writes it."""

import asyncio
import os
from pathlib import Path

from starlette.types import Message, Scope, Send

ID = b"x-request-id"


class RequestLog:
    """Appends `arrived PID ID` for each request with an id, `answering` before its reply, `answered` after all of it.

    Each line is one unbuffered write, so that SIGKILL loses none; several workers may share the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def watched(self, scope: Scope, send: Send) -> Send:
        """Note a request, and give the sender that notes the end of its reply."""
        request_id = next((value for name, value in scope["headers"] if name == ID), None)
        if request_id is None:
            return send
        self._write(b"arrived", request_id)

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._write(b"answering", request_id)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # uvloop writes what was sent at the end of the loop's turn.
                await asyncio.sleep(0)
                self._write(b"answered", request_id)

        return sender

    def _write(self, what: bytes, request_id: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(b"%b %d %b\n" % (what, os.getpid(), request_id))
