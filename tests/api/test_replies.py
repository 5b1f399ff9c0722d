import pytest

from sglang_diffusion_routing.api.replies import errors, json_body, wire, wire_long
from sglang_diffusion_routing.errors import Conflict, InvalidField, InvalidJson
from sglang_diffusion_routing.schemas import ErrorReply, FanOutReply, Pause, Status, SwapWorkers

pytestmark = pytest.mark.core


async def test_a_reply_is_json_without_what_is_left_out() -> None:
    reply = FanOutReply(results=[], success=True, skipped=[], message="m")
    short = wire(reply, 202, exclude={"consistent", "refit", "weight_version"})
    long = await wire_long(Status(status="é"))
    assert (short.status_code, short.body, short.media_type) == (
        202,
        b'{"results":[],"success":true,"skipped":[],"message":"m"}',
        "application/json",
    )
    assert (long.status_code, long.body) == (200, '{"status":"é"}'.encode())


def test_errors_of_the_same_status_are_documented_together() -> None:
    assert errors(InvalidField, Conflict, InvalidJson) == {
        400: {"model": ErrorReply, "description": "`invalid_field`, `invalid_json`"},
        409: {"model": ErrorReply, "description": "`conflict`"},
    }


def test_a_body_is_documented_by_its_model() -> None:
    body = json_body(Pause, required=True)["requestBody"]
    assert body["required"] is True
    assert list(body["content"]["application/json"]["schema"]["properties"]) == ["timeout_s"]


def test_a_body_that_is_made_of_parts_is_documented_whole() -> None:
    body = json_body(SwapWorkers, required=True)["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    workers = next(choice for choice in schema["properties"]["workers"]["anyOf"] if choice["type"] == "array")
    assert list(workers["items"]["properties"]) == ["url", "labels", "max_concurrency"]
    assert "$" not in str(schema).replace("$'", "")
