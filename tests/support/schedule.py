"""Random schedules: what a trainer does to its fleet, and what goes wrong meanwhile, all drawn from one seed."""

import random
from dataclasses import dataclass

WORKERS = 3
LATE = WORKERS
"""Index of the worker that is there from the start but registered later, when a step says so."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done.

    pause_s: wait before it, counted from the end of the step before in the same lane. for_s: how long it lasts, for
    what has an end. choice: a number from 0 to 1 for whatever else there is to choose.
    """

    action: str
    pause_s: float
    for_s: float = 0.0
    worker: int = 0
    mode: str = ""
    choice: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.pause_s:.2f} s, then {self.action}"]
        words += (
            [f"worker {self.worker}"] if self.action not in TRAINER_ACTIONS and self.action != "kill the router" else []
        )
        words += [self.mode] if self.mode else []
        words += [f"for {self.for_s:.2f} s"] if self.for_s else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Lanes run side by side, the steps of one lane one after the other."""

    seed: int
    trainer: tuple[Step, ...]
    workers: tuple[tuple[Step, ...], ...]
    router: tuple[Step, ...]

    def __str__(self) -> str:
        lanes = [("trainer", self.trainer), *((f"worker {n}", lane) for n, lane in enumerate(self.workers))]
        lanes.append(("router", self.router))
        lines = [f"schedule {self.seed}; alone: python -m support.schedules {self.seed}"]
        lines += [f"  {name}: {'; '.join(map(str, lane))}" for name, lane in lanes if lane]
        return "\n".join(lines)


MODES = ("drain", "drain", "drain", "rolling", "rolling admit=new", "immediate")

TRAINER_ACTIONS = {
    "disk refit": 8,
    "earlier disk refit": 2,
    "transformer refit": 2,
    "set lora": 4,
    "unmerge lora": 1,
    "merge lora": 1,
    "tensor refit": 3,
    "bracketed refit": 3,
    "reported refit": 1,
    "sleep and wake": 4,
    "remove and add again": 3,
    "add the late worker": 2,
    "hold and open": 2,
}
CHANGES_WEIGHTS = frozenset(action for action in TRAINER_ACTIONS if action.endswith("refit") or "lora" in action)

WORKER_ACTIONS = {
    "kill": 6,
    "kill, other base": 1,
    "kill, refuse at first": 2,
    "kill, misload at first": 1,
    "stop": 4,
    "refuse refits": 3,
    "spoil refits": 2,
    "lose a refit's answer": 3,
    "fail a refit": 1,
    "die in generation": 1,
    "sleep directly": 2,
}

OF_ONE_WORKER = frozenset([*WORKER_ACTIONS, "remove and add again", "hold and open"])


def drawn(seed: int) -> Schedule:
    """Draw a schedule of about two seconds."""
    rng = random.Random(f"one set of weights {seed}")
    trainer = tuple(_trainer_step(rng) for _ in range(rng.randint(3, 5)))
    workers = tuple(
        tuple(_worker_step(rng, number) for _ in range(rng.choice([0, 0, 1, 1, 2]))) for number in range(WORKERS)
    )
    router = (Step("kill the router", rng.uniform(0.1, 1.8), rng.uniform(0.0, 0.3)),) if rng.random() < 0.35 else ()
    return Schedule(seed, trainer, workers, router)


def _trainer_step(rng: random.Random) -> Step:
    action = _one_of(rng, TRAINER_ACTIONS)
    return Step(
        action,
        pause_s=rng.choice([0.0, rng.uniform(0.0, 0.5)]),
        for_s=rng.uniform(0.05, 0.4),
        worker=rng.randrange(WORKERS),
        mode=rng.choice(MODES) if action in CHANGES_WEIGHTS else "",
        choice=rng.random(),
    )


def _worker_step(rng: random.Random, number: int) -> Step:
    action = _one_of(rng, WORKER_ACTIONS)
    return Step(action, rng.uniform(0.0, 1.2), rng.uniform(0.02, 0.8), number, choice=rng.random())


def _one_of(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
