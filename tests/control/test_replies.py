"""JSON of workers, and what it says."""

import pytest

from sglang_diffusion_routing.control.replies import decode, read_capability
from sglang_diffusion_routing.core.worker import Capability

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        (b'{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}),
        (b"", {"raw": ""}),
        (b"NaN", {"raw": "NaN"}),
        (b'{"a":-Infinity}', {"raw": '{"a":-Infinity}'}),
        (b"1e999", {"raw": "1e999"}),
        (b"[" * 100_000, {"raw": "[" * 100_000}),
        (b"\xff\xfe", {"raw": "\ufffd\ufffd"}),
        (b"9" * 5000, {"raw": "9" * 5000}),
    ],
)
async def test_only_json_that_can_be_written_again_is_decoded(text: bytes, decoded: object) -> None:
    assert await decode(text) == decoded


async def test_a_long_reply_is_decoded_off_the_loop() -> None:
    assert await decode(b"[" + b"1," * 200_000 + b"1]") == [1] * 200_001


@pytest.mark.parametrize(
    ("body", "capability"),
    [
        (
            {"data": [{"id": "m", "task_type": "T2I", "supported_task_types": ["T2I", "I2I"]}]},
            Capability(("T2I", "I2I"), ("m",), learned=True),
        ),
        (
            {"data": [{"id": "m", "task_type": "T2V", "supported_task_types": []}, {"id": "n"}]},
            Capability(("T2V",), ("m", "n"), learned=True),
        ),
        ({"data": [{"id": "m"}]}, Capability(None, ("m",), learned=True)),
        ({"data": [{"id": 1, "task_type": 2, "supported_task_types": "T2I"}]}, Capability(None, (), learned=True)),
        ({"data": []}, Capability(None, (), learned=True)),
        ({"data": ["m"]}, None),
        ({"data": {}}, None),
        ([], None),
        ({"raw": "x"}, None),
    ],
)
def test_what_a_worker_makes_is_read_from_its_models(body: object, capability: Capability | None) -> None:
    assert read_capability(body) == capability
