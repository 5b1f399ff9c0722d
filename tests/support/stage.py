"""A stage for the dashboard: its page, and in place of a router a play of frames that the test has written."""

from __future__ import annotations

import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from types import TracebackType
from typing import Any, Self

from sglang_diffusion_routing.dashboard.page import FILES, POLICY

Frame = dict[str, Any]
EVERY_S = 0.2
KEYLESS = frozenset({f"/dashboard/{name}" for name in FILES} | {"/dashboard"})


def worker(url: str, status: str = "active", **more: Any) -> dict[str, Any]:
    """Write a worker's row as the event stream has it."""
    row = {
        "url": url,
        "display_id": url.removeprefix("http://"),
        "status": status,
        "reason": "",
        "active_requests": 0,
        "jobs": 0,
        "weight_version": "step-1",
        "speed": 12.5,
        "model": "m",
        "max_concurrency": 2,
        "is_dead": status == "quarantined",
        "labels": {},
        "launcher": None,
    }
    return row | more


def frame(workers: list[dict[str, Any]], **more: Any) -> Frame:
    """Write a first frame."""
    made: Frame = {
        "now": time.time(),
        "reset": True,
        "workers": workers,
        "removed": [],
        "queue": {"requests": 0, "bytes": 0, "oldest_seconds": None, "tenants": []},
        "paused": False,
        "finished": 0,
        "targets": {"m": "step-1"},
        "running": [],
        "bars": [],
        "thumbnails": [],
        "changes": [],
    }
    return made | more


def crowd(count: int, *, span_s: float = 100.0, seed: int = 1) -> Frame:
    """Write a fleet in the middle of its second rollout: refits, a few workers out, a few that are late."""
    rng, now = random.Random(seed), time.time()
    rows, bars, changes, running = [], [], [], []
    for index in range(count):
        url = f"http://10.0.{index // 64}.{index % 64 + 1}:30000"
        status = {7: "quarantined", 40: "sleeping", 99: "draining"}.get(index, "active")
        version = "step-1" if status == "active" else "step-0"
        rows.append(
            worker(
                url, status, weight_version=version, active_requests=2 * (status == "active"), speed=rng.uniform(9, 14)
            )
            | {"reason": "" if status == "active" else "it is looked at by those who run it"}
        )
        at = now - span_s
        refit = now - 0.45 * span_s + rng.uniform(-2, 2)
        changes += [[refit, url, "active", "updating"], [refit + 3, url, "updating", "active"]]
        late = status == "active" and index % 61 == 17
        end = now - (14 if late else rng.uniform(0, 4))
        while status == "active" and at < end:
            took = rng.uniform(3, 5)
            if at < refit + 3 and at + took > refit:
                at = refit + 3
                continue
            done = min(at + took, end)
            weights = "step-0" if at < refit else "step-1"
            result = ("died", 502) if rng.random() < 0.004 else ("ok", 200)
            bars.append([url, "rollout", at, done, rng.expovariate(1.0), weights, *result, len(bars)])
            at = done
        if status == "active":
            running.append([url, "rollout", end])
        else:
            changes.append([now - 0.3 * span_s, url, "active", status])
    changes.sort()
    queue = {"requests": 812, "bytes": 2**20, "oldest_seconds": 6.5, "tenants": []}
    return frame(
        rows, now=now, bars=sorted(bars, key=lambda bar: bar[3]), changes=changes, running=running, queue=queue,
        finished=len(bars),
    )  # fmt: skip


class Stage:
    """Serves the page, plays a frame and then empty ones, and remembers what it was asked for.

    asked: (method, target, body, key) of each request but those for the page itself.
    key: once set, all but the page needs it. answers: (status, body) by (method, path), where it is not a plain yes.
    images: JPEG by name of a thumbnail; held: none is given yet. silent: the stream stands and says nothing any more.
    """

    def __init__(self, first: Frame) -> None:
        self.first = first
        self.asked: list[tuple[str, str, Any, str]] = []
        self.key = ""
        self.admin_key = ""
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.images: dict[str, bytes] = {}
        self.streams = 0
        self.silent = threading.Event()
        self.held = threading.Event()
        self.closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def actions(self) -> list[tuple[str, str, Any]]:
        """What it was asked to change, in order."""
        return [(method, path, body) for method, path, body, _ in list(self.asked) if method != "GET"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stage: Stage) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stage = stage


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def stage(self) -> Stage:
        assert isinstance(self.server, _Server)
        return self.server.stage

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _all(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path in KEYLESS:
            self._file(path)
            return
        key = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        self.stage.asked.append((self.command, self.path, json.loads(body) if body else None, key))
        refusal = self._refusal(key)
        if refusal is not None:
            self._json(*refusal)
        elif path == "/events":
            self._events()
        elif path.startswith("/dashboard/thumbnails/"):
            self._image(path.rpartition("/")[2])
        else:
            self._json(*self.stage.answers.get((self.command, path), (200, {"success": True})))

    do_GET = do_POST = do_PUT = do_DELETE = _all  # noqa: N815 - the names that the library calls

    def _refusal(self, key: str) -> tuple[int, Any] | None:
        keys = {self.stage.key, self.stage.admin_key} - {""}
        if keys and key not in keys:
            return 401, {"error": "this needs a key", "code": "key_unknown" if key else "key_missing"}
        if self.stage.admin_key and self.command != "GET" and key != self.stage.admin_key:
            return 403, {"error": "this needs the admin key", "code": "admin_key_needed"}
        return None

    def _file(self, path: str) -> None:
        name = "index.html" if path == "/dashboard" else path.rpartition("/")[2]
        content = resources.files("sglang_diffusion_routing.dashboard").joinpath("static", name).read_bytes()
        self._reply(200, FILES.get(name, "text/html; charset=utf-8"), content)

    def _image(self, name: str) -> None:
        while self.stage.held.is_set() and not self.stage.closing.wait(0.01):
            pass
        if name in self.stage.images:
            self._reply(200, "image/jpeg", self.stage.images[name])
        else:
            self._json(404, {"error": "there is none", "code": "unknown_thumbnail"})

    def _json(self, status: int, said: Any) -> None:
        self._reply(status, "application/json", json.dumps(said).encode())

    def _reply(self, status: int, media_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)

    def _events(self) -> None:
        self.stage.streams += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        nothing_new = {"workers": [], "bars": [], "changes": [], "thumbnails": [], "reset": False}
        try:
            self._frame(self.stage.first)
            while not self.stage.closing.wait(EVERY_S):
                if not self.stage.silent.is_set():
                    self._frame(self.stage.first | nothing_new | {"now": time.time()})
        except OSError:
            # The page has gone.
            return

    def _frame(self, played: Frame) -> None:
        self.wfile.write(f"event: frame\ndata: {json.dumps(played)}\n\n".encode())
