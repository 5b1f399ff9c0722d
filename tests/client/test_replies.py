"""Tests of what the routes give, decoded."""

import base64
import json
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.client import replies
from sglang_diffusion_routing.client.errors import DecodeError
from sglang_diffusion_routing.client.exchange import Answer
from sglang_diffusion_routing.client.made import Image, Origin
from sglang_diffusion_routing.sim.tensors import npy_base64, packed

pytestmark = pytest.mark.core

LATENTS = np.arange(5 * 16, dtype=np.float32).reshape(5, 16, 1, 1)
HEAD = {
    "x-sglang-router-worker": "http://w",
    "x-sglang-router-weight-version": "schritt-ü".encode().decode("latin-1"),
    "x-sglang-router-queue-ms": "1500",
}
SAMPLE: dict[str, Any] = {
    "request_id": "r",
    "prompt": "a cat",
    "seed": 1,
    "generated_output": packed(np.ones((3, 2, 2), dtype=np.float32)),
    "rollout_log_probs": packed(np.zeros(4, dtype=np.float32)),
    "rollout_debug_tensors": {"rollout_noise_std_devs": packed(np.ones((4, 1), dtype=np.float32))},
    "denoising_env": {"image_kwargs": None, "pos_cond_kwargs": {"pooled": packed(np.ones((1, 2), dtype=np.float16))}},
    "dit_trajectory": {"latents": packed(LATENTS), "timesteps": packed(LATENTS[:, 0, 0, 0]), "sigmas": None},
    "inference_time_s": 0.5,
    "peak_memory_mb": None,
}


def answer(body: object, **head: str) -> Answer:
    return Answer(200, {**HEAD, **head}, msgpack.packb(body))


def answer_json(body: object) -> Answer:
    return Answer(200, HEAD, json.dumps(body).encode())


def test_a_rollout_is_its_samples_and_where_they_come_from() -> None:
    rollout = replies.rollout(answer([SAMPLE, SAMPLE]))

    assert rollout.origin == Origin("http://w", "schritt-ü", 1.5)
    assert len(rollout.samples) == 2
    sample = rollout.samples[0]
    assert (sample.prompt, sample.seed, sample.inference_time_s, sample.more) == ("a cat", 1, 0.5, {})
    assert sample.output is not None
    assert sample.output.shape == (3, 2, 2)
    assert sample.log_probs is not None
    assert sample.log_probs.shape == (4,)
    assert sample.trajectory is not None
    assert sample.trajectory.latents is not None
    np.testing.assert_array_equal(sample.trajectory.latents.numpy(), LATENTS)
    assert sample.trajectory.sigmas is None
    assert sample.debug is not None
    assert sample.debug["rollout_noise_std_devs"].shape == (4, 1)
    assert sample.denoising_env is not None
    assert sample.denoising_env["image_kwargs"] is None
    assert sample.denoising_env["pos_cond_kwargs"]["pooled"].dtype == "float16"


def test_what_was_not_asked_for_is_none() -> None:
    empty = dict.fromkeys(SAMPLE) | {"request_id": "r", "prompt": "p", "seed": 1}
    (sample,) = replies.rollout(answer([empty])).samples

    assert (sample.output, sample.log_probs, sample.trajectory, sample.denoising_env, sample.debug) == (None,) * 5


def test_members_that_nobody_knows_yet_are_kept_and_decoded() -> None:
    (sample,) = replies.rollout(answer([{**SAMPLE, "new": [packed(np.ones(2, dtype=np.float32))]}])).samples

    assert sample.more["new"][0].shape == (2,)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "reply"),
        ([1], "[0]"),
        ([{**SAMPLE, "prompt": None}], "[0].prompt"),
        ([SAMPLE, {**SAMPLE, "seed": "1"}], "[1].seed"),
        ([{**SAMPLE, "generated_output": 3}], "[0].generated_output"),
        ([{**SAMPLE, "generated_output": {**SAMPLE["generated_output"], "shape": [1]}}], "[0].generated_output"),
        ([{**SAMPLE, "dit_trajectory": 1}], "[0].dit_trajectory"),
        ([{**SAMPLE, "dit_trajectory": {"latents": [1]}}], "[0].dit_trajectory.latents"),
        (
            [{**SAMPLE, "denoising_env": {"a": [{**packed(np.ones(1, dtype=np.float32)), "data": b""}]}}],
            "[0].denoising_env.a[0]",
        ),
    ],
)
def test_what_is_wrong_in_a_rollout_is_named(body: object, field: str) -> None:
    with pytest.raises(DecodeError) as error:
        replies.rollout(answer(body))
    assert error.value.field == field


@given(st.binary(max_size=200))
def test_no_bytes_bring_anything_but_a_decode_error(body: bytes) -> None:
    for decode in (replies.rollout, replies.generation, replies.images, replies.json_object):
        try:
            decode(Answer(200, {}, body))
        except DecodeError:
            continue


NATIVE = {
    "id": "n",
    "output_b64": base64.b64encode(b"png").decode(),
    "output_format": "png",
    "prompt": "a cat",
    "seed": 3,
    "inference_time_s": 0.1,
    "peak_memory_mb": None,
    "trajectory": {
        "latents": npy_base64(LATENTS[None]),
        "latents_shape": [1, 5, 16, 1, 1],
        "latents_dtype": "float32",
        "timesteps": [npy_base64(np.ones(1, dtype=np.float32))] * 5,
        "log_probs": npy_base64(np.zeros((1, 4), dtype=np.float32)),
        "log_probs_shape": [1, 4],
        "log_probs_dtype": "float32",
    },
}


def test_a_native_generation_is_decoded() -> None:
    made = replies.generation(answer_json(NATIVE))

    assert (made.id, made.output, made.output_format, made.seed, made.origin.worker) == (
        "n",
        b"png",
        "png",
        3,
        "http://w",
    )
    assert made.trajectory is not None
    assert made.trajectory.latents is not None
    np.testing.assert_array_equal(made.trajectory.latents.numpy(), LATENTS[None])
    assert isinstance(made.trajectory.timesteps, tuple)
    assert len(made.trajectory.timesteps) == 5
    assert made.trajectory.log_probs is not None
    assert made.trajectory.log_probs.shape == (1, 4)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"output_b64": 1}, "output_b64"),
        ({"output_b64": "?"}, "output_b64"),
        ({"id": None}, "id"),
        ({"trajectory": []}, "trajectory"),
        ({"trajectory": {"latents": "?"}}, "trajectory.latents"),
        ({"trajectory": {**NATIVE["trajectory"], "latents_shape": [1]}}, "trajectory.latents"),  # type: ignore[dict-item]
        ({"trajectory": {"timesteps": "x"}}, "trajectory.timesteps"),
        ({"trajectory": {"timesteps": [npy_base64(LATENTS), 1]}}, "trajectory.timesteps[1]"),
    ],
)
def test_what_is_wrong_in_a_native_generation_is_named(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(DecodeError) as error:
        replies.generation(answer_json({**NATIVE, **changed}))
    assert error.value.field == field


def test_images_are_bytes_or_addresses() -> None:
    body = {
        "id": "i",
        "created": 5,
        "data": [
            {"b64_json": base64.b64encode(b"png").decode(), "url": None, "revised_prompt": None},
            {"b64_json": None, "url": "/v1/images/i/content", "revised_prompt": "a fox"},
        ],
    }
    made = replies.images(answer_json(body))

    assert made.images == (Image(b"png", None, None), Image(None, "/v1/images/i/content", "a fox"))
    assert (made.id, made.more) == ("i", {"created": 5})


@pytest.mark.parametrize(
    ("body", "field"), [({}, "data"), ({"data": [1]}, "data[0]"), ({"data": [{"b64_json": 1}]}, "data[0].b64_json")]
)
def test_what_is_wrong_in_images_is_named(body: object, field: str) -> None:
    with pytest.raises(DecodeError) as error:
        replies.images(answer_json(body))
    assert error.value.field == field
