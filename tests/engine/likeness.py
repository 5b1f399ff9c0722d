"""What of a reply is the same whichever worker gives it: status, header, shape, every word that is not measured."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import msgpack

MEASURED = {
    "id": "made up for each request",
    "request_id": "made up for each request",
    "first_id": "made up for each request",
    "last_id": "made up for each request",
    "created": "the time",
    "created_at": "the time",
    "completed_at": "the time",
    "inference_time_s": "the time it took",
    "b64_json": "another model's picture",
    "output": "another model's picture",
    "file_path": "holds the id",
    "file_paths": "hold the id",
    "output_file_paths": "hold the time",
    "stages": "what the real engine is made of, with times",
    "total_duration_ms": "the time it took",
}
"""Fields whose values differ between two workers, and why; their types are compared."""

CHANGING = {"date", "etag", "last-modified"}  # headers whose values depend on the moment or on the picture
OWN = {"x-sim-worker", "x-sim-weights"}  # headers with which the simulated worker says what it is
OWN_FIELDS = {"simulated", "simulated_by"}  # in its /server_info, likewise
RANGE = re.compile(r"(bytes (?:\d+-\d+|\*)/)\d+")
CHECKSUM = re.compile(r"\b[0-9a-f]{64}\b")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def likeness(reply: httpx2.Response, names: Mapping[str, str]) -> dict[str, Any]:
    """Give what two workers' replies to the same request are compared by.

    Args:
        names: what each worker's own paths are to be called.
    """
    told = {"status": reply.status_code, "headers": _headers(reply), "body": _body(reply)}
    return {part: _renamed(value, names) for part, value in told.items()}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str):
        for own, common in names.items():
            value = value.replace(own, common)
    return value


def _headers(reply: httpx2.Response) -> list[tuple[str, str]]:
    """List the header in order; a length is compared as far as the body is."""
    fields = [(name.decode().lower(), value.decode()) for name, value in reply.headers.raw]
    return [
        (name, "..." if name in CHANGING or name == "content-length" else RANGE.sub(r"\1SIZE", UUID.sub("UUID", value)))
        for name, value in fields
        if name not in OWN
    ]


def _body(reply: httpx2.Response) -> Any:
    kind = reply.headers.get("content-type", "")
    if reply.request.method == "HEAD":
        return reply.content
    if kind.startswith("application/json"):
        return shape(json.loads(reply.content))
    if kind.startswith("application/msgpack"):
        return shape(msgpack.unpackb(reply.content))
    if kind.startswith("text/"):
        return reply.text
    return f"<{kind}, begins with {reply.content[:3]!r}>"


def shape(value: Any, name: str = "") -> Any:
    """Give a document without what is measured: types for values that differ, dtype and shape for tensors."""
    if isinstance(value, dict) and "__tensor__" in value:
        return {"__tensor__": value["__tensor__"], "data": type(value["data"]).__name__} | {
            key: value[key] for key in value if key not in {"__tensor__", "data"}
        }
    if name in MEASURED:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {key: shape(item, key) for key, item in value.items() if key not in OWN_FIELDS}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return CHECKSUM.sub("CHECKSUM", UUID.sub("UUID", value)) if isinstance(value, str) else value
