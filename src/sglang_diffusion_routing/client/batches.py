"""Many rollouts at once: what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sglang_diffusion_routing.client.errors import ClientError, SamplesMissing
from sglang_diffusion_routing.client.made import Rollout


@dataclass(frozen=True, slots=True)
class Done:
    """Told after each rollout of a batch. index: its place. result: None when it failed."""

    index: int
    result: Rollout | None
    error: ClientError | None
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The rollouts of a batch, in the order of their prompts; None where one has failed.

    failures: their errors, by index.
    """

    rollouts: tuple[Rollout | None, ...]
    failures: Mapping[int, ClientError]

    def complete(self) -> tuple[Rollout, ...]:
        """Give all rollouts.

        Raises:
            SamplesMissing: some have failed.
        """
        if self.failures:
            raise SamplesMissing(self.failures, len(self.rollouts))
        return tuple(self)

    def __iter__(self) -> Iterator[Rollout]:
        """Give the rollouts that there are."""
        return (rollout for rollout in self.rollouts if rollout is not None)

    def __len__(self) -> int:
        return sum(rollout is not None for rollout in self.rollouts)


class Tally:
    """Gathers a batch as its rollouts end, in whatever order."""

    def __init__(self, total: int) -> None:
        self._rollouts: list[Rollout | None] = [None] * total
        self._failures: dict[int, ClientError] = {}
        self._done = 0

    def add(self, index: int, ended: Rollout | ClientError) -> Done:
        self._done += 1
        if isinstance(ended, ClientError):
            self._failures[index] = ended
            return Done(index, None, ended, self._done, len(self._rollouts))
        self._rollouts[index] = ended
        return Done(index, ended, None, self._done, len(self._rollouts))

    def batch(self) -> Batch:
        return Batch(tuple(self._rollouts), dict(sorted(self._failures.items())))
