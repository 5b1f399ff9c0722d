"""Write the API's reference from the route table and from the OpenAPI document."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_diffusion_routing.api.app import document
from sglang_diffusion_routing.core.work import Needs
from sglang_diffusion_routing.proxy.access import Need, need_of
from sglang_diffusion_routing.proxy.routes import WORK, route

Schema = Mapping[str, Any]

_KEYS = {Need.NOTHING: "none", Need.USE: "API or admin", Need.CHANGE: "admin"}
_NEEDS = {Needs.IMAGE: "images", Needs.VIDEO: "videos", Needs.ANY: "any worker"}


def work_table() -> Iterator[str]:
    """Give a row for each route that generates."""
    yield "| Route | Goes to a worker that makes | The worker gets | Creates a job | Name in metrics |"
    yield "|---|---|---|---|---|"
    for (method, path), found in WORK.items():
        sent = f"`{found.rewrite.decode()}`" if found.rewrite else "the same"
        job = "yes" if found.creates_job else "no"
        yield f"| `{method.decode()} {path.decode()}` | {_NEEDS[found.needs]} | {sent} | {job} | `{found.name}` |"


def control_routes() -> Iterator[str]:
    """Give a section for each group of control routes, and in it one for each route."""
    api = document()
    groups: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    for group, operations in groups.items():
        yield f"## {group[0].upper()}{group[1:]}\n"
        for method, path, operation in operations:
            yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"### {method} {path}\n"
    yield operation["description"] + "\n"
    rows = [*_parameters(operation), *_body(operation)]
    if rows:
        yield "| Parameter | In | Type | Meaning |\n|---|---|---|---|"
        yield from rows
        yield ""
    note = operation.get("requestBody", {}).get("description")
    if note:
        yield f"The body {note}.\n"
    yield f"- Key: {_key(method, path)}"
    yield from _replies(operation["responses"])


def _key(method: str, path: str) -> str:
    """Tell which key a request to a route needs."""
    verb, target = method.encode(), re.sub(r"\{\w+\}", "x", path).encode()
    return _KEYS[need_of(verb, target, route(verb, target, None))]


def _parameters(operation: Schema) -> Iterator[str]:
    for parameter in sorted(operation.get("parameters", []), key=lambda parameter: parameter["in"] != "path"):
        schema = parameter["schema"]
        meaning = parameter.get("description") or schema.get("description", "")
        yield _row(parameter["name"], parameter["in"], schema, meaning, required=parameter.get("required", False))


def _body(operation: Schema) -> Iterator[str]:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for name, field in schema.get("properties", {}).items():
        yield _row(name, "body", field, field.get("description", ""), required=name in schema.get("required", []))


def _row(name: str, place: str, schema: Schema, meaning: str, *, required: bool) -> str:
    # That it may be null says no more than that it may be absent.
    kind = _kind(schema).removesuffix(" or null")
    if schema.get("default") is not None:
        kind += f", default {_value(schema['default'])}"
    if required:
        kind += ", required"
    return f"| `{name}` | {place} | {kind} | {_cell(meaning)} |"


def _replies(responses: Schema) -> Iterator[str]:
    codes = []
    for status, response in sorted(responses.items()):
        if status == "4XX":
            continue
        if re.fullmatch(r"(`\w+`(, )?)+", response["description"]):
            codes.append(f"{status} {response['description']}")
            continue
        note = "" if response["description"] == "Successful Response" else f" {response['description']}"
        yield f"- **{status}**: {_content(response)}{note}"
    if codes:
        yield f"- Errors: {'; '.join(codes)}"
    yield ""


def _content(response: Schema) -> str:
    ways = []
    for media_type, content in response.get("content", {}).items():
        schema = content.get("schema", {})
        kind = _kind(schema) if schema else ""
        ways.append(kind if media_type == "application/json" and kind else f"`{media_type}`")
    return (", ".join(ways) or "no body") + "."


def shapes() -> Iterator[str]:
    """Give a table for each shape that replies have."""
    for name, schema in sorted(document()["components"]["schemas"].items()):
        yield f"### {name}\n"
        yield _cell(schema.get("description", "")) + "\n"
        if "properties" in schema:
            yield "| Member | Type | Meaning |\n|---|---|---|"
            for member, field in schema["properties"].items():
                yield f"| `{member}` | {_kind(field)} | {_cell(field.get('description', ''))} |"
            yield ""


def _kind(schema: Schema) -> str:
    """Name a schema's type in a few words, with a link to the shape where it is one."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(choice) for choice in schema[key])
    if "const" in schema:
        return _value(schema["const"])
    if "enum" in schema:
        return " or ".join(_value(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict) and "properties" not in schema:
        return f"object of {_kind(schema['additionalProperties'])}"
    return str(schema.get("type", "any")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    words = [
        f"{word} {schema[key]:g}"
        for key, word in {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}.items()
        if key in schema
    ]
    return f" {' '.join(words)}" if words else ""


def _value(value: object) -> str:
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
