"""Write a line for each request when it is over.

A thread writes them: whoever reads the log may be slow, and no request waits for that. Never in a line: a query, a
body, a prompt, a key.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

import structlog

from sglang_diffusion_routing.proxy.story import Story, Try
from sglang_diffusion_routing.proxy.tracing import shown_path

_log = structlog.get_logger(__name__)

WAITING_MAX = 16384
"""Lines that wait to be written, about 1 KB each; more are counted and lost."""
CLOSE_S = 2.0
ID_MAX_CHARS = 256
"""Of a request id that a client has made up."""

Facts = dict[str, object]


class RequestLog:
    """Tells of requests in the log, at level info."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Facts | None] = SimpleQueue()
        self._lost = 0
        self._writer = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    def begun(self, story: Story) -> None:
        """Nothing is told yet."""

    def tried(self, story: Story, one: Try) -> None:
        """Nothing is told yet."""

    def given_back(self, story: Story, one: Try) -> None:
        """The line speaks of what its client saw."""

    def ended(self, story: Story) -> None:
        """Have the line written."""
        self._put(facts_of(story))

    def _put(self, facts: Facts) -> None:
        if self._waiting.qsize() >= WAITING_MAX:
            self._lost += 1
        else:
            self._waiting.put(facts)

    def close(self) -> None:
        """Write what waits, within a moment; safe to repeat."""
        self._waiting.put(None)
        self._writer.join(CLOSE_S)

    def _write(self) -> None:
        while (facts := self._waiting.get()) is not None:
            lost, self._lost = self._lost, 0
            if lost:
                _log.warning("request_lines_lost", lines=lost)
            _log.info("request", **facts)


def facts_of(story: Story) -> Facts:
    """Say of a request what a line does. Times in seconds, sizes in bytes; what there is not is left out."""
    head, now, error, trace = story.head, story.now, story.error, story.trace
    facts: Facts = {
        "method": head.method.decode("latin-1"),
        "path": shown_path(story),
        "route": story.route.name,
        "status": story.status,
        "code": None if error is None else error.code,
        "client": story.client[0],
        "request_id": story.request_id[:ID_MAX_CHARS],
        "trace_id": f"{trace.trace_id:032x}" if trace is not None and trace.is_sampled else None,
        "bytes_in": story.body_bytes,
        "bytes_out": story.reply_bytes,
        "seconds": round(story.client_ended_s - story.arrived_s, 4),
        "client_left": True if story.left_s is not None and error is None else None,
    }
    if now is not None:
        facts |= {
            "worker": str(now.lease.worker.url),
            "weights": now.weights,
            "attempts": len(story.tries),
            "queue_s": round(story.queued_s, 4),
            **_phases(now, story.client_ended_s),
        }
    elif story.worker is not None:
        facts["worker"] = str(story.worker.url)
    return {name: value for name, value in facts.items() if value is not None}


def _phases(one: Try, ended_s: float) -> Facts:
    """Say how long the worker was at it, and how long its reply took."""
    if one.sent_s is None:
        return {}
    if one.head_s is None:
        return {"generate_s": round(max(ended_s - one.sent_s, 0.0), 4)}
    relay_s = round(max(ended_s - one.head_s, 0.0), 4)
    return {"generate_s": round(one.head_s - one.sent_s, 4), "relay_s": relay_s}
