"""Who may do what: every route of the router, with every key, for every set of keys."""

import contextlib
import itertools
from types import SimpleNamespace
from typing import cast
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from sglang_diffusion_routing.api.app import document
from sglang_diffusion_routing.api.spelling import AnySpelling
from sglang_diffusion_routing.errors import HeadTimeout, KeyUnknown, QueueFull, RouterError
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head
from sglang_diffusion_routing.proxy import routes
from sglang_diffusion_routing.proxy.access import REFUSALS_SHOWN, Access, Need, need_of
from sglang_diffusion_routing.proxy.keys import Keys
from sglang_diffusion_routing.proxy.routes import Kind, route

pytestmark = pytest.mark.core

API, ADMIN = Keys(api=("data",)), Keys(admin=("root",))
BOTH = Keys(api=("data",), admin=("root",))

OPEN = {"/health", "/liveness", "/readiness", "/docs", "/docs/{name}", "/openapi.json", "/redoc", "/dashboard"}
"""What everybody may read."""


def head_of(method: str, target: str, *fields: str) -> RequestHead:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:30080", *fields]
    return parse_request_head("\r\n".join(lines).encode() + b"\r\n\r\n", 16384)


def connection(head: RequestHead | None = None, *, trusted: bool = False) -> DownstreamConnection:
    return cast("DownstreamConnection", SimpleNamespace(trusted=trusted, peer=("192.0.2.7", 5), head=head))


def verdict(access: Access, head: RequestHead) -> str:
    """Say with which code a request is refused; "in" when it is not."""
    found = route(head.method, head.path, head.query)
    try:
        if found.kind is Kind.CONTROL:
            access.check_control(connection(), head, found)
        else:
            access.check_work(head)
    except RouterError as error:
        return error.code
    return "in"


def verdicts(need: Need, keys: Keys) -> dict[str | None, str]:
    """Say what becomes of a request by the key that it has."""
    everybody = {None: "in", "wrong": "in", "data": "in", "root": "in"}
    if need is Need.NOTHING or not keys or (keys is ADMIN and need is Need.USE):
        return everybody
    if keys is API:
        return {None: "key_missing", "wrong": "key_unknown", "data": "in", "root": "key_unknown"}
    if keys is ADMIN:
        return {None: "key_missing", "wrong": "key_unknown", "data": "key_unknown", "root": "in"}
    data = "admin_key_needed" if need is Need.CHANGE else "in"
    return {None: "key_missing", "wrong": "key_unknown", "data": data, "root": "in"}


def documented() -> list[tuple[str, str, Need]]:
    """List every route of the control API with what it is expected to need."""
    found: list[tuple[str, str, Need]] = []
    for path, operations in document()["paths"].items():
        for method in operations:
            reads = Need.NOTHING if path in OPEN else Need.USE
            need = reads if method == "get" else Need.CHANGE
            found.append((method.upper(), path.replace("{", "").replace("}", ""), need))
    return found


TABLE = [
    *documented(),
    *[(method.decode(), path.decode(), Need.USE) for method, path in routes.WORK],
    ("GET", "/dashboard", Need.NOTHING),
    ("GET", "/dashboard/app.js", Need.NOTHING),
    ("HEAD", "/dashboard/style.css", Need.NOTHING),
    ("GET", "/dashboard/thumbnails/7", Need.USE),
    ("GET", "/docs/swagger-ui.css", Need.NOTHING),
    ("GET", "/events?interval_s=1", Need.USE),
    ("OPTIONS", "/workers", Need.USE),
    ("HEAD", "/metrics", Need.USE),
    ("POST", "/health", Need.CHANGE),
    ("PUT", "/workers/http%3A%2F%2Fa%3A1", Need.CHANGE),
    ("DELETE", "/workers/http://a:1", Need.CHANGE),
    ("POST", "/workers/a/restart", Need.CHANGE),
    ("GET", "/v1/models", Need.USE),
    ("GET", "/v1/models/m", Need.USE),
    ("GET", "/v1/videos", Need.USE),
    ("GET", "/v1/videos/v1", Need.USE),
    ("DELETE", "/v1/videos/v1", Need.USE),
    ("GET", "/v1/videos?video_id=v1", Need.USE),
    ("GET", "/v1/images/i/content", Need.USE),
    ("GET", "/server_info", Need.USE),
    ("OPTIONS", "/v1/images/generations", Need.USE),
    ("POST", "/anything", Need.USE),
    ("GET", "/server_info?selector=all", Need.CHANGE),
    ("POST", "/flush_cache?selector=zone=a", Need.CHANGE),
    ("POST", "/update_weights_of_mine", Need.CHANGE),
    ("POST", "/get_weights_checksum", Need.CHANGE),
    ("PATCH", "/v1/lora/x", Need.CHANGE),
]


@pytest.mark.parametrize(("method", "target", "need"), TABLE)
def test_every_route_needs_what_the_table_says(method: str, target: str, need: Need) -> None:
    head = head_of(method, target)
    assert need_of(head.method, head.path, route(head.method, head.path, head.query)) is need


@pytest.mark.parametrize("keys", [Keys(), API, ADMIN, BOTH], ids=["none", "api", "admin", "both"])
@pytest.mark.parametrize(("method", "target", "need"), TABLE)
def test_every_route_opens_to_the_keys_that_the_table_says(method: str, target: str, need: Need, keys: Keys) -> None:
    access = Access(keys)
    given = {None: [], **{key: [f"Authorization: Bearer {key}"] for key in ("wrong", "data", "root")}}
    found = {key: verdict(access, head_of(method, target, *fields)) for key, fields in given.items()}
    assert found == verdicts(need, keys)


@pytest.mark.parametrize("path", sorted(path.decode() for path in routes._CONTROL_PATHS))
def test_a_control_path_that_no_document_has_is_closed_too(path: str) -> None:
    def needed(method: str) -> Need:
        head = head_of(method, path)
        return need_of(head.method, head.path, route(head.method, head.path, head.query))

    reads = Need.NOTHING if path in OPEN else Need.USE
    assert [needed(method) for method in ("GET", "HEAD", "OPTIONS")] == [reads] * 3
    assert {needed(method) for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND")} == {Need.CHANGE}


def test_the_document_covers_the_control_routes() -> None:
    assert len(documented()) > 30
    assert {path for _, path, need in documented() if need is Need.NOTHING} <= {
        path.replace("{name}", "name") for path in OPEN
    }


NAMES = st.sampled_from(
    [
        *(
            "health",
            "liveness",
            "dashboard",
            "dashboard/app.js",
            "dashboard/thumbnails/7",
            "docs",
            "docs/x",
            "openapi.json",
        ),
        *("workers", "workers/a", "%77orkers", "metrics", "%2e%2e/metrics", "v1/models", "router_info", "weights", "x"),
    ]
)
NOISE = st.sampled_from(
    ["/", "//", "/./", "/../", "/%2e%2e/", "/%2E./", "%2f..%2F", "\\..\\", "%5c", ";a=b/", "/;/", "/..;/", "%252e/"]
)


@settings(max_examples=1000)
@given(st.lists(st.tuples(NAMES, NOISE), max_size=3), NAMES, st.sampled_from(["", "/", "/.", "/..", ";a", "%2f"]))
def test_what_is_open_is_what_the_control_app_takes_it_for(parts: list[tuple[str, str]], last: str, end: str) -> None:
    """The keys are asked for by one reading of a path, and the route is found by another: they must not differ."""
    path = "/" + "".join(itertools.chain.from_iterable(parts)) + last + end
    raw = path.encode()
    found = route(b"GET", raw, None)
    if found.kind is not Kind.CONTROL or need_of(b"GET", raw, found) is not Need.NOTHING:
        return
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["path"])

    scope = {"type": "http", "raw_path": raw, "path": unquote(path)}
    with contextlib.suppress(StopIteration):
        AnySpelling(app)(scope, None, None).send(None)  # type: ignore[arg-type]
    (path,) = seen
    assert path in OPEN or path.startswith(("/docs/", "/dashboard/"))
    assert not path.startswith("/dashboard/thumbnails")


def test_the_best_of_several_keys_counts() -> None:
    fields = ("Authorization: Bearer data", "x-api-key: root")
    assert verdict(Access(BOTH), head_of("POST", "/pause_generation", *fields)) == "in"
    assert verdict(Access(BOTH), head_of("GET", "/workers", "Authorization: Basic x", "x-api-key: data")) == "in"


def test_several_keys_are_good_at_once() -> None:
    access = Access(Keys(api=("old", "new")))
    assert [verdict(access, head_of("GET", "/x", f"x-api-key: {key}")) for key in ("old", "new")] == ["in", "in"]


def test_keys_can_be_replaced() -> None:
    access = Access(Keys(api=("old",)))
    access.keys = Keys(api=("new",))
    asked = [verdict(access, head_of("GET", "/x", f"x-api-key: {key}")) for key in ("old", "new")]
    assert asked == ["key_unknown", "in"]


@pytest.mark.parametrize("keys", [Keys(), BOTH], ids=["none", "both"])
@pytest.mark.parametrize("origin", ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"])
def test_a_page_of_another_origin_may_change_nothing_whatever_key_comes_with_it(origin: str, keys: Keys) -> None:
    fields = (origin, "Content-Type: text/plain", "x-api-key: root")
    assert verdict(Access(keys), head_of("POST", "/release_memory_occupation", *fields)) == "cross_origin"
    assert verdict(Access(keys), head_of("GET", "/workers", *fields)) == "in"


def test_a_trusted_proxy_says_by_which_host_a_page_came() -> None:
    head = head_of("POST", "/pause_generation", "Origin: https://router.test", "X-Forwarded-Host: router.test")
    found = route(head.method, head.path, head.query)
    Access().check_control(connection(trusted=True), head, found)
    with pytest.raises(RouterError, match="another origin"):
        Access().check_control(connection(), head, found)


def test_a_browser_with_a_stranger_s_name_reaches_control_only_where_a_key_guards_it() -> None:
    raw = "GET /workers HTTP/1.1\r\nHost: evil.example:30080\r\nAccept-Language: en\r\nx-api-key: root\r\n\r\n"
    head = parse_request_head(raw.encode(), 16384)
    program = parse_request_head(raw.replace("Accept-Language: en\r\n", "").encode(), 16384)
    static = parse_request_head(raw.replace("/workers", "/dashboard").encode(), 16384)
    accesses = (Access(), Access(ADMIN), Access(BOTH), Access(own_names=["evil.example"]))
    assert [verdict(access, head) for access in accesses] == ["foreign_host", "foreign_host", "in", "in"]
    assert [verdict(access, program) for access in accesses] == ["in"] * 4
    assert [verdict(access, static) for access in accesses] == ["in"] * 4


@pytest.mark.parametrize(
    ("method", "target", "at_main", "at_control"),
    [
        ("POST", "/v1/images/generations", "in", "work_elsewhere"),
        ("GET", "/v1/videos/v1", "in", "work_elsewhere"),
        ("GET", "/anything", "in", "work_elsewhere"),
        ("GET", "/health", "in", "in"),
        ("GET", "/%68ealth", "in", "in"),
        ("GET", "/liveness", "in", "in"),
        ("GET", "/readiness", "in", "in"),
        ("GET", "/v1/models", "in", "in"),
        ("GET", "/v1/videos", "in", "in"),
        ("POST", "/health", "control_elsewhere", "in"),
        ("GET", "/workers", "control_elsewhere", "in"),
        ("GET", "//./%77orkers/", "control_elsewhere", "in"),
        ("GET", "/metrics", "control_elsewhere", "in"),
        ("GET", "/dashboard", "control_elsewhere", "in"),
        ("GET", "/docs", "control_elsewhere", "in"),
        ("POST", "/add_worker", "control_elsewhere", "in"),
        ("GET", "/x?selector=all", "control_elsewhere", "in"),
        ("POST", "/new_weights", "control_elsewhere", "in"),
    ],
)
def test_control_has_one_listener_and_work_the_other(method: str, target: str, at_main: str, at_control: str) -> None:
    access = Access(control_apart=True)

    def at(*, on_control: bool) -> str:
        head = head_of(method, target)
        try:
            access.check_place(head, route(head.method, head.path, head.query), on_control=on_control)
        except RouterError as error:
            return error.code
        return "in"

    assert (at(on_control=False), at(on_control=True)) == (at_main, at_control)


def test_whose_key_it_was_is_told_by_a_digest() -> None:
    access = Access(BOTH)
    fields = [(), ("x-api-key: no",), ("x-api-key: data",), ("x-api-key: data", "Authorization: Bearer root")]
    found = [access.who(head_of("GET", "/", *each)) for each in fields]
    assert found[:2] == ["none", "none"]
    assert [one.partition(":")[0] for one in found[2:]] == ["api", "admin"]
    assert not any(secret in one for one, secret in itertools.product(found, ("data", "root")))


def test_a_flood_of_refusals_fills_no_log() -> None:
    access = Access(API)
    with capture_logs() as lines:
        for _ in range(REFUSALS_SHOWN + 1000):
            access.note(KeyUnknown(), connection(head_of("GET", "/secret?q=1", "x-api-key: guess")), "r-1")
    assert len(lines) == REFUSALS_SHOWN
    assert lines[0] == {
        "event": "access_refused",
        "log_level": "warning",
        "code": "key_unknown",
        "peer": "192.0.2.7",
        "path": "/secret",
        "request_id": "r-1",
    }


def test_other_refusals_are_none_of_these() -> None:
    access = Access(API)
    with capture_logs() as lines:
        access.note(QueueFull(1, "requests", 1, {}), connection(head_of("GET", "/x")), "r-1")
        access.note(HeadTimeout("it is late"), connection(), "r-1")
    assert lines == []


def test_a_door_stands_only_where_there_is_something_to_guard() -> None:
    found = [access.guards_work for access in (Access(), Access(API), Access(ADMIN), Access(control_apart=True))]
    assert found == [False, True, True, True]
    assert [access.rewrites_heads for access in (Access(), Access(API), Access(control_apart=True))] == [
        False,
        True,
        False,
    ]
