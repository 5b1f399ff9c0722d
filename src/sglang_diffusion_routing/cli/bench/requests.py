"""The requests that a benchmark sends, as SGLang-Diffusion 0.5.23 takes them."""

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What is asked for; a video is a job that is polled to its end."""

    IMAGE = "image"
    VIDEO = "video"
    ROLLOUT = "rollout"


PATHS: Mapping[Task, str] = {
    Task.IMAGE: "/v1/images/generations",
    Task.VIDEO: "/v1/videos",
    Task.ROLLOUT: "/rollout/generate",
}


def arrivals_s(count: int, rate: float, seed: int) -> list[float]:
    """Give when each of so many requests comes, in seconds from the first one: a Poisson process of `rate` a second.

    Users know nothing of each other, so the gaps are exponential and some come in bursts.
    """
    chance = random.Random(seed)
    gaps = (chance.expovariate(rate) for _ in range(count - 1))
    return list(itertools.accumulate(gaps, initial=0.0))[:count]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a request: pixels, denoising steps, frames (1 for an image) and outputs."""

    width: int
    height: int
    steps: int
    frames: int = 1
    outputs: int = 1

    @property
    def mpx_steps(self) -> float:
        """Give its work, in megapixel-steps over all frames and outputs."""
        return self.width * self.height / 1e6 * self.steps * self.frames * self.outputs


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send: its path, its JSON, and how many outputs it asks for."""

    task: Task
    body: bytes
    outputs: int

    @property
    def path(self) -> str:
        """Give the path that it is posted to."""
        return PATHS[self.task]

    @classmethod
    def of(cls, task: Task, shape: Shape, number: int, extra: Mapping[str, object] | None = None) -> "Request":
        """Make request `number` of a run; each has a prompt and a seed of its own, so nothing can be cached.

        Args:
            extra: further fields of the body, which win over those made here.
        """
        body: dict[str, object] = {
            "prompt": f"a fox in the snow, take {number}",
            "seed": number * shape.outputs,
            "num_inference_steps": shape.steps,
        }
        if task is Task.IMAGE:
            body |= {"size": f"{shape.width}x{shape.height}", "n": shape.outputs, "response_format": "b64_json"}
        else:
            body |= {"width": shape.width, "height": shape.height, "num_outputs_per_prompt": shape.outputs}
            body["num_frames"] = shape.frames
        if task is Task.ROLLOUT:
            body["rollout_debug_mode"] = False
        return cls(task, json.dumps(body | dict(extra or {})).encode(), shape.outputs)
