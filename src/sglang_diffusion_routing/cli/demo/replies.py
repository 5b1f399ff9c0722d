"""Decode the reply to a rollout: msgpack with tensors in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.sim.tensors import NotSafetensors, from_safetensors

Floats = NDArray[np.float32]


class BadReply(ValueError):
    """The bytes are not the reply to a rollout."""


@dataclass(frozen=True, slots=True)
class Output:
    """One sample as a worker gave it.

    seconds: the worker's time for all samples of the reply. colours: in 0..1, [3, height, width]. log_probs: [steps].
    latent: the final one, [channels, height / 8, width / 8].
    """

    prompt: str
    seconds: float
    colours: Floats
    log_probs: Floats
    latent: Floats


def decode(body: bytes) -> list[Output]:
    """Give the samples of a reply whose trajectory holds at least the final latent.

    Raises:
        BadReply: it is no msgpack, lacks an entry, or a tensor's header and bytes disagree.
    """
    try:
        entries = msgpack.unpackb(body)
        return [
            Output(
                prompt=entry["prompt"],
                seconds=entry["inference_time_s"],
                colours=_tensor(entry["generated_output"]),
                log_probs=_tensor(entry["rollout_log_probs"]),
                latent=_tensor(entry["dit_trajectory"]["latents"])[-1],
            )
            for entry in entries
        ]
    except (KeyError, IndexError, TypeError, ValueError, NotSafetensors) as error:
        raise BadReply(f"no reply to a rollout: {error!r}") from error


def _tensor(packed: Mapping[str, Any]) -> Floats:
    """Read a tensor `{"__tensor__", "data", "shape", "dtype"}`, whose data is a safetensors file of one tensor."""
    (array,) = from_safetensors(packed["data"]).values()
    if list(array.shape) != list(packed["shape"]):
        raise BadReply(f"a tensor of {packed['shape']} came as {list(array.shape)}")
    return array
