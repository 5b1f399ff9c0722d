"""What the demo claims, checked: each claim that does not hold is named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sglang_diffusion_routing.cli.demo.rollout import STEPS, Sample

Group = Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a rollout should look like: version of the weights, checksum of their transformer, workers in the fleet."""

    prompts: Sequence[str]
    samples: int
    version: str
    checksum: str
    workers: frozenset[str]


@dataclass(slots=True)
class Verdict:
    """Claims that hold, and what is wrong with the others."""

    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def claim(self, sentence: str, faults: Iterator[str] | Sequence[str]) -> None:
        """Note a claim as held when nothing speaks against it; of its faults the first three are kept."""
        found = list(faults)
        if not found:
            self.held.append(sentence)
            return
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        self.broken.append(f"not true that {sentence}: {'; '.join(found[:3])}{more}")


def missing(groups: Sequence[Group], expected: Expected) -> Iterator[str]:
    """Tell which prompts lack samples or got another's."""
    for index, (group, prompt) in enumerate(zip(groups, expected.prompts, strict=True), 1):
        if len(group) != expected.samples:
            yield f"prompt {index} has {len(group)} samples"
        if any(sample.text != prompt for sample in group):
            yield f"prompt {index} got the samples of another prompt"
        for sample in group:
            if sample.log_probs.shape != (STEPS,) or not np.isfinite(sample.log_probs).all():
                yield f"sample {index}.{sample.number + 1} has no log-probability for each step"


def wrong_weights(groups: Sequence[Group], expected: Expected) -> Iterator[str]:
    """Tell which samples ran on other weights, by the router's word and by the worker's."""
    for group in groups:
        for sample in group:
            place = f"sample {sample.prompt + 1}.{sample.number + 1} on {sample.worker}"
            if sample.version != expected.version:
                yield f"{place} is labelled {sample.version!r}, not {expected.version!r}"
            if sample.weights != expected.checksum:
                yield f"{place} ran on weights {sample.weights[:12]}, not {expected.checksum[:12]}"


def idle_workers(groups: Sequence[Group], expected: Expected) -> Iterator[str]:
    """Tell which workers had nothing to do though there were prompts enough, and names that nobody knows."""
    used = {sample.worker for group in groups for sample in group}
    if len(groups) >= 2 * len(expected.workers):
        yield from (f"{worker} made no sample" for worker in sorted(expected.workers - used))
    yield from (f"{worker} is no worker of the fleet" for worker in sorted(used - expected.workers))


def unequal_checksums(results: Sequence[Mapping[str, object]], expected: Expected) -> Iterator[str]:
    """Tell which rows of a fan-out of /get_weights_checksum differ from the checkpoint's."""
    if len(results) != len(expected.workers):
        yield f"{len(results)} workers answered"
    for row in results:
        body = row.get("body")
        found = body.get("transformer") if isinstance(body, Mapping) else body
        if found != expected.checksum:
            yield f"{row.get('worker_url')} reports {found!r}"
