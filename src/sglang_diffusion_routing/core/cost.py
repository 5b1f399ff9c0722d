"""How much work a request is, in megapixel-steps.

    cost = width x height / 10^6 x denoising steps x frames x outputs x passes of the model per step

One megapixel-step is one pass of the model over 10^6 output pixels. Only ratios matter: what a model needs for a
megapixel-step is in the speed that is learned of its workers (`core/speed.py`). What a request leaves open has the
worker's default as far as that is part of the API, else one of the usual values; where all requests leave it open,
any value gives the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_SIZE_SEPARATOR = "x"
_LARGEST = 1e6
"""No width, count of steps, frames or outputs is above this; what is, is a mistake that its worker will refuse."""
COST_MIN, COST_MAX = 1e-6, 1e12
"""A cost that is stated is kept within these, so that no arithmetic on sums of costs overflows or loses the rest."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a route's requests are taken to ask for where they do not say (SGLang 0.5.23).

    width, height in pixels; fps with seconds gives frames. max_outputs: the most that its API makes at once.
    has_frames: False where the API makes single frames whatever a request says.
    """

    width: float = 1024
    height: float = 1024
    steps: float = 50
    frames: float = 1
    fps: float = 24
    seconds: float | None = None
    max_outputs: float = _LARGEST
    has_frames: bool = True


_IMAGES = Usual(max_outputs=10, has_frames=False)
USUAL: Mapping[str, Usual] = MappingProxyType(
    {
        # entrypoints/openai/image_api.py: size 1024x1024, n at most 10, one frame.
        "images_generations": _IMAGES,
        "images_edits": _IMAGES,
        # entrypoints/openai/video_api.py: 4 s of 24 frames; the smallest size of Wan, the most used model.
        "videos": Usual(width=832, height=480, seconds=4, max_outputs=10),
        # entrypoints/post_training/rollout_api.py leaves all to the model; most have 50 steps and make images.
        "rollout": Usual(),
        "diffusion": Usual(),
        "meshes": Usual(width=512, height=512, has_frames=False),
    }
)
"""By names of routes. A route that is not here generates nothing whose work could be read from its body."""

UNKNOWN_COST_MPX_STEPS = 1024 * 1024 / 1e6 * 50 * 2
"""Work of a request of which nothing is known: an image of usual size."""


def cost_of(fields: Mapping[bytes, bytes], usual: Usual) -> float:
    """Give the work of a request in megapixel-steps.

    Args:
        fields: what it says about its shape, by name; values as they are written in JSON or in a form. One that is no
            positive number counts as not said, as `null` does for the worker.
    """
    width, height = _sides(fields, usual)
    steps = _number(fields, b"num_inference_steps") or usual.steps
    outputs = _number(fields, b"num_outputs_per_prompt") or _number(fields, b"n") or 1.0
    pixels = width * height / 1e6
    return pixels * steps * _frames(fields, usual) * min(outputs, usual.max_outputs) * _passes(fields)


def _sides(fields: Mapping[bytes, bytes], usual: Usual) -> tuple[float, float]:
    """Give width and height; each for itself wins over `size` (entrypoints/openai/utils.py, build_sampling_params)."""
    width, height = _number(fields, b"width"), _number(fields, b"height")
    if width is None or height is None:
        size = _text(fields, b"size").lower().replace(" ", "").split(_SIZE_SEPARATOR)
        sides = (_positive(size[0]), _positive(size[1])) if len(size) == 2 else (None, None)
        width = width or sides[0] or usual.width
        height = height or sides[1] or usual.height
    return width, height


def _frames(fields: Mapping[bytes, bytes], usual: Usual) -> float:
    if not usual.has_frames:
        return 1.0
    frames = _number(fields, b"num_frames")
    if frames is not None:
        return frames
    if usual.seconds is None:
        return usual.frames
    return (_number(fields, b"seconds") or usual.seconds) * (_number(fields, b"fps") or usual.fps)


def _passes(fields: Mapping[bytes, bytes]) -> float:
    """Give the passes of the model per step: two with classifier-free guidance.

    The engine guides when `true_cfg_scale`, else `guidance_scale`, is above 1 and there is a negative prompt
    (configs/sample/sampling_params.py, should_use_classifier_free_guidance). All but a few models have a negative
    prompt and a scale above 1 by default, and a request cannot take the prompt away, for `null` means the default: so
    guidance is off only where the request turns its scale down. Distilled models run once whatever is said; that is
    the same factor for all their work.
    """
    for name in (b"true_cfg_scale", b"guidance_scale"):
        text = _text(fields, name)
        try:
            return 1.0 if float(text) <= 1.0 else 2.0
        except ValueError:
            continue
    return 2.0


def _number(fields: Mapping[bytes, bytes], name: bytes) -> float | None:
    return _positive(_text(fields, name))


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("latin-1").strip('"')


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 < number <= _LARGEST else None


class CostBook:
    """What the work of each route and model usually is, for requests whose shape cannot be read.

    The mean is geometric, of about the last `memory` pieces of work, and one piece moves it by at most what a
    `largest_step`-fold deviation would: a single video of an hour does not make every image look like one.
    """

    def __init__(self, *, cap: int = 256, memory: int = 32, largest_step: float = 4.0) -> None:
        self._cap = cap
        self._memory = memory
        self._largest_step = math.log(largest_step)
        self._seen: dict[tuple[str, str | None], tuple[float, int]] = {}

    def usual(self, route: str, model: str | None) -> float:
        """Give the usual work of such requests, in megapixel-steps."""
        seen = self._seen.get((route, model))
        return UNKNOWN_COST_MPX_STEPS if seen is None else math.exp(seen[0])

    def note(self, route: str, model: str | None, cost: float) -> None:
        """Take in the work of one such request; at the cap, the one whose last piece is longest past is forgotten."""
        key = (route, model)
        mean, count = self._seen.pop(key, (0.0, 0))
        logarithm = math.log(cost)
        if count:
            step = min(max(logarithm - mean, -self._largest_step), self._largest_step)
            mean += step / min(count + 1, self._memory)
        else:
            mean = logarithm
            if len(self._seen) >= self._cap:
                del self._seen[next(iter(self._seen))]
        self._seen[key] = (mean, count + 1)
