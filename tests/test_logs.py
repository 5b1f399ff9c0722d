"""Tests of the log's form, and of what never comes out in it."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from sglang_diffusion_routing import logs
from sglang_diffusion_routing.logs import REDACTED
from sglang_diffusion_routing.tasks import spawn

pytestmark = pytest.mark.core

Written = Callable[[], str]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Read what came out on standard error, and put the logging of the process back as it was."""
    loggers = [logging.getLogger(name) for name in (None, *logs.QUIET, *logs.SILENT)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def lines(stderr: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr().splitlines()]


def shown(**facts: object) -> dict[str, Any]:
    return dict(logs.redact(None, "info", dict(facts)))


def test_a_json_line_holds_the_event_and_its_facts(stderr: Written) -> None:
    logs.configure(level="info", as_json=True)
    structlog.get_logger("sglang_diffusion_routing.core.pool").info(
        "worker_quarantined", worker="http://w:1", failures=3
    )
    (line,) = lines(stderr)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "worker_quarantined",
        "level": "info",
        "logger": "core.pool",
        "worker": "http://w:1",
        "failures": 3,
    }


def test_a_line_for_people_holds_the_event_and_its_facts(stderr: Written) -> None:
    logs.configure(level="info", as_json=False)
    structlog.get_logger("sglang_diffusion_routing.core.pool").info(
        "worker_quarantined", worker="http://w:1", failures=3
    )
    (line,) = stderr().splitlines()
    assert line.split()[1:] == ["[info", "]", "worker_quarantined", "[core.pool]", "failures=3", "worker=http://w:1"]


def test_less_urgent_events_are_not_written(stderr: Written) -> None:
    logs.configure(level="warning", as_json=True)
    log = structlog.get_logger("pool")
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stderr)] == ["loud"]


def test_library_messages_come_out_in_the_same_form(stderr: Written) -> None:
    logs.configure(level="info", as_json=True)
    logging.getLogger("uvicorn.error").warning("cannot %s to http://user:pw@w:1", "connect")
    logging.getLogger("uvicorn.error").info("started")
    assert [(line["logger"], line["event"]) for line in lines(stderr)] == [
        ("uvicorn.error", f"cannot connect to http://{REDACTED}@w:1")
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_variables(stderr: Written, *, as_json: bool) -> None:
    logs.configure(level="info", as_json=as_json)

    def paint(prompt: str) -> None:
        raise ValueError("no paint")

    try:
        paint("a fox in " + "the snow")
    except ValueError as error:
        structlog.get_logger("sim").error("task_failed", exc_info=error)
    written = stderr()
    assert "no paint" in written
    assert "the snow" not in written.replace('"a fox in " + "the snow"', "")


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "proxy-authorization",
        "x-api-key",
        "api_key",
        "admin_keys",
        "set-cookie",
        "prompt",
        "prompts",
        "negative_prompt",
        "body",
        "request_body",
        "hf_token",
        "password",
        "client_secret",
        "payload",
    ],
)
def test_a_secret_fact_is_hidden_by_its_name(name: str) -> None:
    assert shown(**{name: "s3cret"}) == {name: REDACTED}


@pytest.mark.parametrize("name", ["prompt_count", "body_bytes", "token_count", "worker", "keys", "everybody"])
def test_a_name_that_only_looks_secret_is_shown(name: str) -> None:
    assert shown(**{name: "plain"}) == {name: "plain"}


def test_a_secret_is_hidden_inside_lists_and_mappings() -> None:
    assert shown(request={"headers": [("authorization", "Basic x"), ("accept", "*/*")], "args": [{"prompt": "p"}]}) == {
        "request": {"headers": [["authorization", REDACTED], ["accept", "*/*"]], "args": [{"prompt": REDACTED}]}
    }


def test_credentials_are_hidden_inside_text() -> None:
    assert shown(why="GET http://me:pw@host/x failed: Bearer abc.def refused") == {
        "why": f"GET http://{REDACTED}@host/x failed: Bearer {REDACTED} refused"
    }


def test_bytes_come_out_as_their_length() -> None:
    assert shown(head=b"GET / HTTP/1.1", tail=memoryview(b"xyz")) == {"head": "[14 bytes]", "tail": "[3 bytes]"}


def test_long_text_is_cut() -> None:
    assert shown(why="x" * 3000) == {"why": "x" * 2000 + "… (3000 characters)"}


def test_what_is_nested_too_deep_is_not_shown() -> None:
    assert shown(a={"b": {"c": {"d": {"e": 1}}}}) == {"a": {"b": {"c": {"d": REDACTED}}}}


def test_an_exception_stays_an_exception() -> None:
    error = ValueError("x")
    assert shown(exc_info=error) == {"exc_info": error}


HOSTILE = [
    "a\n2026-11-21T00:00:00Z [info     ] refit_ended",
    "a\r\nb",
    "clear \x1b[2J\x1b[31mred",
    "nel \x85 csi \x9b31m del \x7f",
    "separators \u2028 and \u2029",
    "null \x00 bell \x07 bidi \u202e",
    "\udc80 half a pair",
]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_fact_forges_a_line_or_reaches_the_terminal(stderr: Written, text: str, *, as_json: bool) -> None:
    logs.configure(level="info", as_json=as_json)
    structlog.get_logger("pool").info("worker_status", why=text, nested={"inner": [text]})
    logging.getLogger("uvicorn.error").warning("said %s", text)
    written = stderr()
    assert len(written.splitlines()) == written.count("\n") == 2
    assert written.replace("\n", "").isprintable()
    if as_json:
        assert json.loads(written.splitlines()[0])["why"] == text


async def test_what_is_bound_is_in_every_line_of_the_block_and_of_its_own_tasks(stderr: Written) -> None:
    logs.configure(level="info", as_json=True)
    log = structlog.get_logger("api")

    async def say(event: str) -> None:
        log.info(event)

    with logs.bound(request_id="r-1"):
        log.info("within")
        part = spawn(say("part"), name="part", of_request=True)
        caused = spawn(say("caused"), name="caused")
    log.info("after")
    await part
    await caused
    assert [(line["event"], line.get("request_id")) for line in lines(stderr)] == [
        ("within", "r-1"),
        ("after", None),
        ("part", "r-1"),
        ("caused", None),
    ]


def test_libraries_that_lose_traces_are_not_heard(stderr: Written) -> None:
    logs.configure(level="debug", as_json=True)
    logging.getLogger("opentelemetry.exporter.otlp").error("Failed to export")
    assert stderr() == ""
