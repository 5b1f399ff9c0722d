"""Carries operations out over httpx2, blocking."""

from __future__ import annotations

import time

import httpx2

from sglang_diffusion_routing.client.errors import Unreachable
from sglang_diffusion_routing.client.exchange import NO_ANSWER, Answer, Fetch, Operation, Send, Step, T
from sglang_diffusion_routing.client.settings import Access, answer_of


class Transport:
    """Sends what an operation asks for, and hands it the answers.

    Args:
        http: to send with, instead of connections of its own.
    """

    def __init__(self, access: Access, http: httpx2.Client | None) -> None:
        self._access = access
        self._owns_http = http is None
        self._http = httpx2.Client(**access.options()) if http is None else http

    def close(self) -> None:
        """Close the connections, if they are its own."""
        if self._owns_http:
            self._http.close()

    def run(self, operation: Operation[T], *, control: bool = False) -> T:
        """Carry an operation out, step by step."""
        answer: Answer = NO_ANSWER
        try:
            step = next(operation)
            while True:
                try:
                    answer = self._take(step, control=control)
                except Unreachable as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    def _take(self, step: Step, *, control: bool) -> Answer:
        match step:
            case Send():
                return self._send(step, control=control)
            case Fetch():
                return self._fetch(step)
            case _:
                time.sleep(step.seconds)
                return NO_ANSWER

    def _send(self, send: Send, *, control: bool) -> Answer:
        try:
            reply = self._http.send(self._http.build_request(**self._access.arguments(send, control=control)))
        except httpx2.TransportError as error:
            raise Unreachable(f"{send.method} {send.path}: {error!r}") from error
        return answer_of(reply, reply.content)

    def _fetch(self, fetch: Fetch) -> Answer:
        send = fetch.send
        request = self._http.build_request(**self._access.arguments(send, control=False))
        try:
            reply = self._http.send(request, stream=True)
            try:
                if reply.status_code not in {200, 206}:
                    return answer_of(reply, reply.read())
                answer = answer_of(reply, b"")
                sink, count = fetch.on_head(answer.status, answer.headers), 0
                for span in reply.iter_raw():
                    sink.write(span)
                    count += len(span)
                    fetch.on_bytes(count)
                return answer
            finally:
                reply.close()
        except httpx2.TransportError as error:
            raise Unreachable(f"{send.method} {send.path}: {error!r}") from error
