"""Write the replies of the control API."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.schemas import ErrorReply

Documented = dict[int | str, dict[str, Any]]


def wire(model: BaseModel, status: int = 200, *, exclude: set[str] | None = None) -> Response:
    """Write a short reply, without the fields in `exclude`."""
    return Response(model.model_dump_json(exclude=exclude), status, media_type="application/json")


async def wire_long(model: BaseModel, status: int = 200, *, exclude: set[str] | None = None) -> Response:
    """Write a reply that may be long off the loop that moves the clients' bytes: 1,000 workers take milliseconds."""
    return await asyncio.to_thread(wire, model, status, exclude=exclude)


def errors(*kinds: type[RouterError]) -> Documented:
    """Document the errors of a route, for OpenAPI."""
    shown: Documented = {}
    for kind in kinds:
        codes = shown.setdefault(kind.http_status, {"model": ErrorReply, "description": ""})
        codes["description"] = ", ".join(filter(None, [codes["description"], f"`{kind.code}`"]))
    return shown


def json_body(model: type[BaseModel], *, required: bool = False) -> dict[str, Any]:
    """Document a request body that the route reads itself, for OpenAPI."""
    schema = model.model_json_schema()
    schema = _with_parts_in_place(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _with_parts_in_place(schema: Any, parts: dict[str, Any]) -> Any:
    """Put the definitions that a schema refers to where it does: those of a request body are listed nowhere else."""
    if isinstance(schema, list):
        return [_with_parts_in_place(entry, parts) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    return {key: _with_parts_in_place(value, parts) for key, value in schema.items()}
