"""Write events and their facts to standard error, for people or as JSON, without secrets and prompts.

`log.info("worker_quarantined", worker=url, failures=3)`: an event's name and facts. Libraries that use the standard
`logging` module (uvicorn, asyncio) come out in the same form. What is logged while a control request is served carries
the facts that were bound with `bound`. However hostile a fact is, one event is one line.
"""

import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
_PACKAGE = __name__.removesuffix("logs")
TEXT_MAX_CHARS = 2_000
QUIET = ("asyncio", "httpcore2", "httpx2", "uvicorn")
"""Libraries that are heard from `warning` on: what they say of each request, the router's own events say better."""
SILENT = ("opentelemetry", "urllib3")
"""Libraries that are not heard at all: they say for each batch that it was lost, the router says it once."""

# Facts whose values stay out of every log, by the last word of their name: "x-api-key", "prompts"; not "prompt_count".
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:authorization|cookie|password|secret|token|(?:api|admin)[_-]?key|credential|prompt|body|payload)s?$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=\bbearer )\S+", re.IGNORECASE)
_MAX_DEPTH = 3
# JSON may hold them as they are, but readers take them for a line's end, terminals for an order, and UTF-8 has none of
# the last.
_LINE_BREAKING = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@contextmanager
def bound(**facts: str) -> Iterator[None]:
    """Have everything that is logged in the block, and in the tasks that are a part of it, carry these facts."""
    with structlog.contextvars.bound_contextvars(**facts):
        yield


def configure(*, level: str, as_json: bool) -> None:
    """Send all logging of this process to standard error; called once, before the first event.

    Args:
        level: least urgent level that is written: debug, info, warning, error, critical.
        as_json: one JSON object a line instead of text for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _name_by_room,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # Both make a call below the level nearly free; per-request events are written at debug.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    ending = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_ending(as_json=as_json)]
    line = {"()": structlog.stdlib.ProcessorFormatter, "foreign_pre_chain": shared, "processors": ending}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": line},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": level.upper()},
            "loggers": {
                **{name: {"level": "WARNING"} for name in QUIET},
                **{name: {"level": "CRITICAL"} for name in SILENT},
            },
        }
    )


def _ending(*, as_json: bool) -> list[Processor]:
    """Give the processors that turn an event into a line; none of them shows the variables of a traceback."""
    if as_json:
        traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(traces),
            _begin_alike,
            structlog.processors.JSONRenderer(_one_line, ensure_ascii=False, default=str),
        ]
    return [
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=32
        ),
    ]


def _name_by_room(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave out of a logger's name what all of the router's own have in common."""
    event["logger"] = event["logger"].removeprefix(_PACKAGE)
    return event


def _begin_alike(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Have lines begin with when, how urgent, who and what: the rest differs."""
    return {**{name: event[name] for name in ("timestamp", "level", "logger", "event") if name in event}, **event}


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write what no line for people can hold, a line's end or an order to the terminal, as a backslash form."""
    return {name: _escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _one_line(event: object, **options: Any) -> str:
    """Write JSON, with what it leaves as it is and a reader of lines may not."""
    text = json.dumps(event, **options)
    return _LINE_BREAKING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide what may be a secret or a prompt: by a fact's name however deep, credentials in text, bytes, long text."""
    return {name: _show(name, value, _MAX_DEPTH) for name, value in event.items()}


def _show(name: object, value: object, depth: int) -> object:
    """Give what may be written of a fact; nothing below `depth` levels."""
    if isinstance(name, str) and _SECRET_NAME.search(name):
        return REDACTED
    match value:
        case str():
            text = _SECRET_TEXT.sub(REDACTED, value)
            return text if len(text) <= TEXT_MAX_CHARS else f"{text[:TEXT_MAX_CHARS]}… ({len(text)} characters)"
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"
        case Mapping() | list() | tuple() if depth == 0:
            return REDACTED
        case Mapping():
            return {key: _show(key, inner, depth - 1) for key, inner in value.items()}
        case (str() as key, inner):  # a header as a pair
            return [key, _show(key, inner, depth - 1)]
        case list():
            return [_show(None, inner, depth - 1) for inner in value]
        case _:
            return value
