"""Read the bodies of control requests: JSON objects of a bounded size, into models."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from sglang_diffusion_routing.api.errors import invalid_field
from sglang_diffusion_routing.errors import BodyTooLarge, InvalidJson

CONTROL_BODY_MAX_BYTES = 64 * 1024
"""A control body names a worker and a few labels; 64 KiB is what the head of a request may have, too."""

M = TypeVar("M", bound=BaseModel)


async def read_bytes(request: Request, limit_bytes: int = CONTROL_BODY_MAX_BYTES) -> bytes:
    """Read a body of at most `limit_bytes`.

    Raises:
        BodyTooLarge: as soon as more has come.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    return bytes(body)


def parse_object(content: bytes) -> dict[str, object]:
    """Decode a JSON object; nothing at all is an empty one.

    Raises:
        InvalidJson: it is not JSON, not an object, or names a field twice.
    """
    if not content.strip():
        return {}
    try:
        decoded = json.loads(content, object_pairs_hook=_unique)
    except _RepeatedField as error:
        raise InvalidJson(f"the body names the field {error} twice") from None
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"the body is not JSON: {_why(error)}") from None
    if not isinstance(decoded, dict):
        raise InvalidJson("the body must be a JSON object")
    return decoded


async def read_model(request: Request, model: type[M], limit_bytes: int = CONTROL_BODY_MAX_BYTES) -> M:
    """Read a JSON object into `model`, whatever the content type says: curl sends JSON as a form.

    A long one is decoded off the loop that moves the clients' bytes.

    Raises:
        BodyTooLarge: as soon as more than `limit_bytes` has come.
        InvalidJson, InvalidField: with one sentence that names what is wrong.
    """
    content = await read_bytes(request, limit_bytes)
    if len(content) > CONTROL_BODY_MAX_BYTES:
        return await asyncio.to_thread(_parse_model, content, model)
    return _parse_model(content, model)


def _parse_model(content: bytes, model: type[M]) -> M:
    try:
        return model.model_validate(parse_object(content))
    except ValidationError as error:
        raise invalid_field(error) from None


class _RepeatedField(Exception):
    pass


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedField(repr(next(name for name in names if names.count(name) > 1)))
    return fields


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "it is nested too deeply or malformed"
