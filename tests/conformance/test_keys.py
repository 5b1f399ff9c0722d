"""No spelling of a control route gets past the keys, nor past the listener that control has to itself."""

from collections.abc import Callable, Iterator

import pytest

from support.client import ask, request
from support.router import RouterProcess
from support.worker import ScriptedWorker

pytestmark = pytest.mark.e2e

PATHS = [
    b"/workers",
    b"/workers/http%3A%2F%2F127.0.0.1%3A1",
    b"/add_worker",
    b"/remove_worker",
    b"/pause_generation",
    b"/continue_generation",
    b"/abort_request",
    b"/release_memory_occupation",
    b"/resume_memory_occupation",
    b"/update_weights_from_disk",
    b"/update_weights_from_tensor",
    b"/get_weights_checksum",
    b"/v1/set_lora",
    b"/v1/merge_lora_weights",
    b"/weights",
    b"/weights/verify",
    b"/new_weights",
]
"""Routes that change the fleet, by the methods that each has."""


def _hex(path: bytes, form: str) -> bytes:
    return b"/" + b"".join(form.format(byte).encode() for byte in path[1:])


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as meant": lambda path: path,
    "slash behind": lambda path: path + b"/",
    "slashes before": lambda path: b"//" + path,
    "dot": lambda path: b"/." + path,
    "dot behind": lambda path: path + b"/.",
    "dots": lambda path: b"/x/y/../.." + path,
    "dots above the root": lambda path: b"/../.." + path,
    "dots behind": lambda path: path + b"/x/..",
    "encoded dot": lambda path: b"/%2e" + path,
    "encoded dots": lambda path: b"/x/%2E%2e" + path,
    "half encoded dots": lambda path: b"/x/.%2e" + path,
    "encoded slash": lambda path: b"/%2f" + path[1:],
    "encoded slash in upper case": lambda path: b"/%2F" + path[1:],
    "encoded slash behind": lambda path: path + b"%2F",
    "encoded letter": lambda path: b"/%%%02x" % path[1] + path[2:],
    "all encoded": lambda path: _hex(path, "%{:02x}"),
    "all encoded in upper case": lambda path: _hex(path, "%{:02X}"),
    "parameters": lambda path: path + b";a=b",
    "parameters before": lambda path: b"/;a=b" + path,
    "parameters of dots": lambda path: b"/x/..;a=b" + path,
    "backslash": lambda path: b"/\\" + path[1:],
    "backslashes": lambda path: b"/x\\..\\" + path[1:],
    "encoded backslash": lambda path: b"/x%5c..%5C" + path[1:],
    "absolute": lambda path: b"http://router.test" + path,
    "absolute with a port": lambda path: b"HTTP://router.test:80/" + path,
    "absolute of https": lambda path: b"https://router.test/." + path,
    "empty query": lambda path: path + b"?",
    "query": lambda path: path + b"?a=/x/../y&b=%2e",
}
"""Ways to write a path that some server or other takes for the same path."""

GUESSES: dict[str, Callable[[bytes], bytes]] = {
    "encoded twice": lambda path: b"/%25" + b"%02x" % path[1] + path[2:],
    "dots encoded twice": lambda path: b"/x/%252e%252e" + path,
    "overlong slash": lambda path: b"/x/..%c0%af" + path[1:],
    "overlong dots": lambda path: b"/x/%c0%ae%c0%ae" + path,
    "letters of full width": lambda path: b"/%ef%bd%97" + path[2:],
    "in capitals": lambda path: path.upper(),
    "selector": lambda _: b"/server_info?selector=all",
    "selector encoded": lambda _: b"/x?s%65lector=all",
}
"""Ways that are no spelling of it for anybody careful: such a request is work for a worker, or for many."""

METHODS = [b"POST", b"PUT", b"DELETE", b"PATCH"]
API, ADMIN = b"Authorization: Bearer data-key", b"x-api-key: admin-key"


@pytest.fixture(scope="module")
def guarded(module_worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([module_worker.url], "--api-key", "data-key", "--admin-key", "admin-key") as router:
        router.wait_until_healthy(1)
        yield router


@pytest.fixture(scope="module")
def apart(module_worker: ScriptedWorker) -> Iterator[RouterProcess]:
    with RouterProcess([module_worker.url], "--admin-port", "0") as router:
        router.wait_until_healthy(1)
        yield router


def codes(router: RouterProcess, spell: Callable[[bytes], bytes], *fields: bytes) -> set[tuple[int, str]]:
    """Send a spelling of every route with every method that changes something, and collect the refusals."""
    return {
        (reply.status, reply.code)
        for path in PATHS
        for method in METHODS
        for reply in [ask(router.port, request(method, spell(path), *fields, body=b"{}"))]
    }


@pytest.mark.parametrize("name", [*SPELLINGS, *GUESSES])
def test_without_a_key_nothing_gets_past_by_any_spelling(
    name: str, guarded: RouterProcess, worker: ScriptedWorker
) -> None:
    before = worker.requests
    assert codes(guarded, (SPELLINGS | GUESSES)[name]) == {(401, "key_missing")}
    assert codes(guarded, (SPELLINGS | GUESSES)[name], b"x-api-key: guess") == {(401, "key_unknown")}
    assert worker.requests == before


@pytest.mark.parametrize("name", SPELLINGS)
def test_with_the_key_for_work_nothing_changes_by_any_spelling(
    name: str, guarded: RouterProcess, worker: ScriptedWorker
) -> None:
    before = worker.requests
    assert codes(guarded, SPELLINGS[name], API) == {(403, "admin_key_needed")}
    assert worker.requests == before


@pytest.mark.parametrize("name", SPELLINGS)
def test_beside_its_own_listener_control_is_nowhere_by_any_spelling(
    name: str, apart: RouterProcess, worker: ScriptedWorker
) -> None:
    before = worker.requests
    assert codes(apart, SPELLINGS[name]) == {(403, "control_elsewhere")}
    assert ask(apart.port, request(b"GET", SPELLINGS[name](b"/metrics"))).code == "control_elsewhere"
    assert worker.requests == before


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_is_open_is_so_under_its_own_name_alone(name: str, guarded: RouterProcess) -> None:
    """A path that begins with an open one, and means another, is that other."""
    for opened in (b"/health/..", b"/docs/..", b"/dashboard/%2e%2e", b"/dashboard/app.js/../..", b"/liveness%2f.."):
        reply = ask(guarded.port, request(b"GET", opened + SPELLINGS["dot"](b"/router_info")))
        assert (reply.status, reply.code) == (401, "key_missing")
    reply = ask(guarded.port, request(b"GET", SPELLINGS[name](b"/metrics")))
    assert (reply.status, reply.code) == (401, "key_missing")


def test_fields_that_some_servers_take_for_the_path_count_for_nothing(guarded: RouterProcess) -> None:
    for field in (
        b"X-Original-URL: /health",
        b"X-Rewrite-URL: /health",
        b"X-Forwarded-Path: /health",
        b"X-HTTP-Method-Override: GET",
    ):
        assert ask(guarded.port, request(b"POST", b"/pause_generation", field, body=b"{}")).code == "key_missing"
        assert (
            ask(guarded.port, request(b"POST", b"/pause_generation", field, API, body=b"{}")).code == "admin_key_needed"
        )


def test_a_refusal_is_logged_by_the_id_that_its_reply_has() -> None:
    # A router of its own: of many refusals within a minute only the first are logged.
    with RouterProcess([], "--api-key", "data-key") as router:
        reply = ask(router.port, request(b"GET", b"/x?secret=1"))
        (request_id,) = reply.values(b"x-request-id")
        (line,) = [line for line in router.stderr().splitlines() if request_id.decode() in line]
    assert "access_refused" in line
    assert "code=key_missing" in line
    assert "path=/x " in line
    assert "secret" not in line


def test_facts_about_the_client_cannot_be_claimed(guarded: RouterProcess) -> None:
    claims = (b"x-sglang-router-key: admin:00000000", b"X-SGLang-Router-Peer: 10.0.0.1:1")
    reply = ask(guarded.port, request(b"POST", b"/pause_generation", *claims, ADMIN, body=b"{}"))
    assert reply.status == 200
    assert ask(guarded.port, request(b"POST", b"/continue_generation", ADMIN, body=b"{}")).status == 200
    log = guarded.stderr()
    assert "admin:00000000" not in log
    assert "10.0.0.1" not in log
    assert "admin-key" not in log
    assert "data-key" not in log


@pytest.mark.parametrize("origin", [b"Origin: http://evil.example", b"Sec-Fetch-Site: cross-site", b"Origin: null"])
def test_a_page_elsewhere_changes_nothing_by_a_form_or_a_script(
    origin: bytes, router: RouterProcess, worker: ScriptedWorker
) -> None:
    before = worker.requests
    for kind in (
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json",
    ):
        for path in PATHS:
            sent = request(b"POST", path, origin, b"Content-Type: " + kind, body=b"{}")
            assert ask(router.port, sent).code == "cross_origin"
    assert worker.requests == before


def test_the_router_s_own_page_and_programs_change_what_they_like(router: RouterProcess) -> None:
    for fields in (
        [],
        [b"Origin: http://router.test"],
        [b"Sec-Fetch-Site: same-origin", b"Origin: http://router.test"],
    ):
        for path in (b"/pause_generation", b"/continue_generation"):
            assert ask(router.port, request(b"POST", path, *fields, body=b"{}")).status == 200


def test_a_name_that_was_pointed_at_the_router_shows_a_page_nothing(router: RouterProcess) -> None:
    browser = b"User-Agent: Mozilla/5.0"
    rebound = request(b"GET", b"/workers", browser, host=b"evil.example:30080")
    assert ask(router.port, rebound).code == "foreign_host"
    own = request(b"GET", b"/workers", browser, host=b"127.0.0.1:30080")
    assert ask(router.port, own).status == 200
    program = request(b"GET", b"/workers", host=b"router.company.example")
    assert ask(router.port, program).status == 200
