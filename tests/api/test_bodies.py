import pytest

from sglang_diffusion_routing.api.bodies import (
    CONTROL_BODY_MAX_BYTES,
    parse_object,
    read_bytes,
    read_model,
)
from sglang_diffusion_routing.errors import BodyTooLarge, InvalidField, InvalidJson
from sglang_diffusion_routing.schemas import Pause, RegisterWorkers
from support.asgi import request_of

pytestmark = pytest.mark.core


async def test_a_body_is_read_whole_up_to_its_bound() -> None:
    assert await read_bytes(request_of(body=[b"ab", b"", b"c"]), 3) == b"abc"
    with pytest.raises(BodyTooLarge) as caught:
        await read_bytes(request_of(body=[b"ab", b"cd"]), 3)
    assert caught.value.facts == {"limit_bytes": 3}


async def test_no_body_is_an_empty_object() -> None:
    assert await read_model(request_of(), RegisterWorkers) == RegisterWorkers()
    assert await read_model(request_of(body=[b" \r\n"]), RegisterWorkers) == RegisterWorkers()


async def test_the_bound_of_a_control_body_holds() -> None:
    padding = b" " * (CONTROL_BODY_MAX_BYTES - 2)
    assert await read_model(request_of(body=[b"{}", padding]), RegisterWorkers) == RegisterWorkers()
    with pytest.raises(BodyTooLarge):
        await read_model(request_of(body=[b"{} ", padding]), RegisterWorkers)


async def test_a_body_may_have_a_bound_of_its_own_and_is_checked_alike() -> None:
    padding, limit = b" " * CONTROL_BODY_MAX_BYTES, 2 * CONTROL_BODY_MAX_BYTES
    assert await read_model(request_of(body=[b'{"url":"u"}', padding]), RegisterWorkers, limit) == RegisterWorkers(
        url="u"
    )
    with pytest.raises(InvalidField, match="'uri' is not known here"):
        await read_model(request_of(body=[b'{"uri":"u"}', padding]), RegisterWorkers, limit)
    with pytest.raises(BodyTooLarge):
        await read_model(request_of(body=[padding, padding, b" "]), RegisterWorkers, limit)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        (b"nonsense", "the body is not JSON: Expecting value at line 1 column 1"),
        (b"\xff{}", "the body is not JSON: it is not UTF-8 text"),
        (b"[" * 100_000, "the body is not JSON: it is nested too deeply or malformed"),
        (b"[1]", "the body must be a JSON object"),
        (b"null", "the body must be a JSON object"),
        (b'{"a":1,"a":1}', "the body names the field 'a' twice"),
        (b'{"o":{"b":1,"c":2,"b":3}}', "the body names the field 'b' twice"),
    ],
)
def test_what_is_no_object_is_refused_in_one_sentence(content: bytes, message: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_object(content)
    assert caught.value.message == message


async def test_a_model_is_read_and_its_wrong_field_named() -> None:
    assert await read_model(request_of(body=[b'{"timeout_s":1.5}']), Pause) == Pause(timeout_s=1.5)
    with pytest.raises(InvalidField) as caught:
        await read_model(request_of(body=[b'{"timeout":1.5}']), Pause)
    assert (caught.value.message, caught.value.facts) == ("'timeout' is not known here", {"field": "timeout"})
