"""Describe, for OpenAPI, what routes read from a request themselves."""

from __future__ import annotations

from typing import Any

from sglang_diffusion_routing.control.parameters import LONGEST_S, VERSION_MAX
from sglang_diffusion_routing.core.refit import Mode

Description = dict[str, Any]

OF_QUERIES: dict[str, tuple[Description, str]] = {
    "selector": (
        {"type": "string", "default": "all"},
        "which workers: ids or URLs with commas between them, a label key=value, or all",
    ),
    "timeout_s": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
        "seconds for a worker's work to end, or for its answer; else the router's own limit",
    ),
    "weight_version": (
        {"type": "string", "maxLength": VERSION_MAX},
        "name of the new weights; without it the router counts",
    ),
    "mode": (
        {"type": "string", "enum": [mode.value for mode in Mode], "default": Mode.DRAIN.value},
        "how the fleet goes over to the new weights",
    ),
    "max_unavailable": (
        {"type": "integer", "minimum": 1, "maximum": 99_999, "default": 1},
        "mode=rolling: workers that are out of service together",
    ),
    "admit": (
        {"type": "string", "enum": ["new"]},
        "mode=rolling: only the new weights serve as soon as one worker has them",
    ),
    "refit": (
        {"type": "string", "enum": ["begin", "part", "commit"]},
        "which request of a refit this is that comes in several",
    ),
}
"""Every parameter that is the router's own, by name: its schema and what it means."""

FAN_OUT = ("selector", "timeout_s")
REFIT = (*FAN_OUT, "weight_version", "mode", "max_unavailable", "admit")

WORKER_ID: Description = {
    "parameters": [
        {
            "name": "worker_id",
            "in": "path",
            "required": True,
            "description": "the worker's URL, percent-encoded once, twice or not at all",
            "schema": {"type": "string"},
        }
    ]
}


def query(*names: str) -> Description:
    """Describe parameters of a query that the route reads itself."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}
            for name, (schema, meaning) in ((name, OF_QUERIES[name]) for name in names)
        ]
    }


def passed_on(**fields: tuple[str, str]) -> Description:
    """Describe a JSON body that goes to each worker as it came, with the fields that the router looks at.

    Args:
        fields: name -> ("required" or "optional", what it is).
    """
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "description": meaning} for name, (_, meaning) in fields.items()},
        "required": [name for name, (need, _) in fields.items() if need == "required"],
        "additionalProperties": True,
    }
    return {
        "requestBody": {
            "required": bool(schema["required"]),
            "description": "goes to each worker as it came",
            "content": {"application/json": {"schema": schema}},
        }
    }


TENSORS: Description = {
    "requestBody": {
        "description": "goes to each worker as it came; none for `refit=begin` and `refit=commit` without a part",
        "content": {"application/json": {"schema": {}}, "application/octet-stream": {"schema": {}}},
    }
}
