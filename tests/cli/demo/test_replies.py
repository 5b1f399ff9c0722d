"""Tests of the decoder of rollout replies."""

import msgpack
import numpy as np
import pytest

from sglang_diffusion_routing.cli.demo.replies import BadReply, decode
from sglang_diffusion_routing.sim.tensors import packed

pytestmark = pytest.mark.core

COLOURS = np.linspace(0, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4)
LATENTS = np.arange(2 * 16, dtype=np.float32).reshape(2, 16, 1, 1)
LOG_PROBS = np.array([-1.5, -2.5], dtype=np.float32)


def entry() -> dict[str, object]:
    return {
        "prompt": "a fox",
        "generated_output": packed(COLOURS),
        "rollout_log_probs": packed(LOG_PROBS),
        "dit_trajectory": {"latents": packed(LATENTS)},
        "inference_time_s": 0.25,
    }


def test_a_reply_is_decoded_bit_for_bit() -> None:
    (output,) = decode(msgpack.packb([entry()]))
    assert (output.prompt, output.seconds) == ("a fox", 0.25)
    np.testing.assert_array_equal(output.colours, COLOURS)
    np.testing.assert_array_equal(output.log_probs, LOG_PROBS)
    np.testing.assert_array_equal(output.latent, LATENTS[1])


def test_a_reply_has_an_output_for_each_sample() -> None:
    assert len(decode(msgpack.packb([entry(), entry()]))) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Internal Server Error",
        msgpack.packb({"detail": "no"}),
        msgpack.packb([{"prompt": "a fox"}]),
        msgpack.packb([entry() | {"dit_trajectory": None}]),
        msgpack.packb([entry() | {"rollout_log_probs": packed(LOG_PROBS) | {"data": b"short"}}]),
        msgpack.packb([entry() | {"rollout_log_probs": packed(LOG_PROBS) | {"shape": [3]}}]),
        msgpack.packb([entry()])[:-10],
    ],
)
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(BadReply):
        decode(body)
