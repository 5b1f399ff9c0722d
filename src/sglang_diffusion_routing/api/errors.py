"""Give every error of the control app the router's own shape."""

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from sglang_diffusion_routing.errors import InternalError, InvalidField, MethodNotAllowed, RouteNotFound, RouterError

_log = structlog.get_logger(__name__)

_SENTENCES = {
    "extra_forbidden": "is not known here",
    "missing": "is required",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a string",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "finite_number": "must be a finite number",
}
"""What to say for pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def render(error: RouterError) -> Response:
    """Turn an error into its reply."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return Response(error.to_wire(), error.http_status, headers, media_type="application/json")


def invalid_field(error: ValidationError | RequestValidationError) -> InvalidField:
    """Name the first field that was wrong, and say in one sentence what is wrong with it."""
    details: Sequence[Any] = error.errors()
    first = details[0]
    field = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"})
    said = _SENTENCES.get(first["type"])
    if said is None and first["type"] == "value_error":
        said = str(first["ctx"]["error"])
    said = said or _as_predicate(first["msg"])
    return InvalidField(field, f"{field!r} {said}") if field else InvalidField("body", said)


def _as_predicate(message: str) -> str:
    """Turn pydantic's "Input should be ..." into the end of a sentence about a field."""
    return message.replace("Input should be ", "must be ", 1).replace("String should ", "must ", 1).rstrip(".")


def _allowed(app: FastAPI, request: Request) -> str:
    """List the methods that this path has: they are spread over several routes, the framework names one route's."""
    scope = dict(request.scope)
    methods: set[str] = set()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        scope["method"] = method
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes):
            methods.add(method)
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def install(app: FastAPI) -> None:
    """Make `app` answer every error in the router's shape."""

    @app.exception_handler(RouterError)
    async def _(_request: Request, error: RouterError) -> Response:
        return render(error)

    @app.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> Response:
        return render(invalid_field(error))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        """Answer for the framework: it knows of unknown paths and of methods that a path has not."""
        if error.status_code == 405:
            return render(MethodNotAllowed(request.method, _allowed(app, request)))
        return render(RouteNotFound(request.url.path))

    @app.exception_handler(ClientDisconnect)
    async def _(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; nginx's "client closed request"

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        _log.error("control_request_failed", method=request.method, path=request.url.path, exc_info=error)
        return render(InternalError())
