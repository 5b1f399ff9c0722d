"""One simulated worker: what it has loaded, whether it sleeps, and the work it can do."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from sglang_diffusion_routing.sim.engine import Engine, Turn
from sglang_diffusion_routing.sim.faults import Faults
from sglang_diffusion_routing.sim.flow import TRAIN_STEPS
from sglang_diffusion_routing.sim.jobs import Made, OutputFolder, Shelf
from sglang_diffusion_routing.sim.lora import LoraError
from sglang_diffusion_routing.sim.model import Model, Outcome
from sglang_diffusion_routing.sim.request_log import RequestLog
from sglang_diffusion_routing.sim.sampler import GenerationFailed, Plan, Sample, sample
from sglang_diffusion_routing.sim.settings import SimSettings

T = TypeVar("T")

ASLEEP = "Server is sleeping. Call resume_memory_occupation first."
ASLEEP_REFIT = "Cannot update weights while the server is sleeping. Call resume_memory_occupation first."
SCHEDULER_EXITED = "Scheduler worker exited; restart the server."

MOST_MEGAPIXELS = 64.0  # of one request; as float32 colours that is 768 MB

OnProgress = Callable[[float], None]


class JobFailed(Exception):
    """The scheduler answered a generation with an error; the message is the scheduler's."""


class RefitWhileAsleep(Exception):
    """Weights cannot be loaded from disk into a sleeping worker."""


class CannotDie(ValueError):
    """A worker that lives in somebody else's process was told to end it."""


class Worker:
    """All of a worker but its HTTP surface.

    Args:
        exit_process: ends the worker as a crash would, from any thread; None when it cannot be ended alone.
    """

    def __init__(self, settings: SimSettings, *, exit_process: Callable[[], None] | None = None) -> None:
        self.settings = settings
        self._exit_process = exit_process
        self.name = settings.name or f"sim-{settings.port}"
        self.faults = Faults()
        self.engine = Engine(settings, self.faults)
        self.model = Model(settings)
        self.sleeping = False
        self.warm = asyncio.Event()
        self.awake = asyncio.Event()  # not hanging
        self.awake.set()
        self.images = Shelf()
        self.videos = Shelf()
        self.meshes = Shelf()
        self.outputs = OutputFolder(settings.output_dir)
        self.requests: Counter[str] = Counter()
        self.request_log = None if settings.request_log is None else RequestLog(settings.request_log)
        if settings.warmup_seconds == 0:
            self.warm.set()
        self.set_faults(**settings.initial_faults.model_dump())

    def close(self) -> None:
        """Give up all work and remove temporary files."""
        self.engine.die("the server has shut down")
        self.outputs.close()

    def set_faults(self, **changes: Any) -> None:
        """Put faults in force, on the event loop; the same from Python as over HTTP.

        Raises:
            ValidationError: an unknown fault or a value out of bounds; nothing is changed.
            CannotDie: the worker has no process to end.
        """
        checked = Faults(**{**self.faults.model_dump(), **changes})
        if (checked.die or checked.die_in_generation) and self._exit_process is None:
            raise CannotDie("this worker has no process of its own to end")
        for name in changes:
            setattr(self.faults, name, getattr(checked, name))
        if checked.die:
            self.exit()
        if checked.scheduler_dead and self.engine.failure is None:
            self.engine.die(SCHEDULER_EXITED)
        if checked.hang:
            self.awake.clear()
        else:
            self.awake.set()

    def exit(self) -> None:
        """End the process at once."""
        if self._exit_process is not None:
            self._exit_process()

    @property
    def gpu_uuid(self) -> str:
        """Name of this worker's GPU in `payload_gpu_uuids`."""
        return f"GPU-{self.name}"

    def generation(
        self, request_id: str, plan: Plan, finish: Callable[[list[Sample], float], T], on_progress: OnProgress
    ) -> Callable[[Turn], Made[T]]:
        """Describe a generation for the engine.

        Args:
            finish: makes the reply of the samples and the seconds they took; it runs on the engine's thread.
            on_progress: called on the engine's thread with the share of steps done, first with 0.

        Raises (from the work):
            JobFailed: asleep, broken, or the model cannot make it.
        """

        def work(turn: Turn) -> Made[T]:
            if self.sleeping:
                raise JobFailed(ASLEEP)
            turn.weights = self.model.transformer_checksum
            try:
                samples = self._sample(turn, plan, on_progress)
            except GenerationFailed as error:
                raise JobFailed(f"Error executing request {request_id}: {error}") from error
            turn.reach(1.0)
            seconds = turn.elapsed_s
            return Made(value=finish(samples, seconds), weights=turn.weights, seconds=seconds)

        return work

    def _sample(self, turn: Turn, plan: Plan, on_progress: OnProgress) -> list[Sample]:
        profile = self.settings.profile
        if self.faults.broken:
            raise GenerationFailed("the simulated model is broken")
        if max(plan.width, plan.height) > profile.max_side:
            raise GenerationFailed(
                f"{plan.width}x{plan.height} is larger than the model's {profile.max_side} pixels a side"
            )
        turn.samples = len(plan.seeds)
        if plan.megapixels * (plan.frames or 1) * len(plan.seeds) > MOST_MEGAPIXELS:
            raise GenerationFailed("out of memory: too many pixels at once for the simulation")
        if plan.steps > TRAIN_STEPS:
            raise GenerationFailed(
                f"{plan.steps} steps are more than the {TRAIN_STEPS} that the model was trained with"
            )
        mpx_steps = plan.megapixels * plan.steps * (plan.frames or 1) * len(plan.seeds)
        turn.take(self.settings.overhead_seconds + self.settings.seconds_per_mpx_step * mpx_steps)
        turn.block_loop(self.settings.block_event_loop)
        on_progress(0.0)

        def on_step(done: int) -> None:
            if done == (plan.steps + 1) // 2 and self.faults.die_in_generation:
                self.exit()
            turn.reach((1.0 - profile.decode_share) * done / plan.steps)
            on_progress(done / plan.steps)

        return sample(plan, self.model.transformer, self.model.vae, on_step)

    async def generate(
        self, kind: str, request_id: str, plan: Plan, finish: Callable[[list[Sample], float], T]
    ) -> Made[T]:
        """Queue a generation and wait for it; raises what the work raises, or `SchedulerDead`."""
        return await self.engine.run(
            kind, self.generation(request_id, plan, finish, _no_progress), request_id=request_id
        )

    async def control(self, kind: str, action: Callable[[], T], *, seconds: float = 0.0) -> T:
        """Queue an action behind all work before it, and wait for it."""

        def work(turn: Turn) -> T:
            turn.take(seconds)
            turn.reach(1.0)
            turn.weights = self.model.transformer_checksum
            return action()

        return await self.engine.run(kind, work)

    async def refit(self, action: Callable[[], Outcome], *, from_disk: bool) -> Outcome:
        """Queue a change of weights.

        Raises:
            RefitWhileAsleep: from disk only; tensors are taken asleep too, as on a real worker.
        """

        def work(turn: Turn) -> Outcome:
            if from_disk and self.sleeping:
                raise RefitWhileAsleep(ASLEEP_REFIT)
            if (refusal := self._refusal()) is not None:
                return Outcome(success=False, message=refusal)
            outcome = action()
            if outcome.success:  # a refusal comes before any weights are read
                turn.take(self.settings.refit_seconds)
                turn.reach(1.0)
            turn.weights = self.model.transformer_checksum
            return outcome

        return await self.engine.run("refit", work)

    async def adapt(self, action: Callable[[], None]) -> None:
        """Queue a change of LoRA adapters; raises what the change raises.

        Raises:
            LoraError: it is refused, by a fault or for a reason.
        """

        def work(turn: Turn) -> None:
            if (refusal := self._refusal()) is not None:
                raise LoraError(refusal)
            action()
            turn.take(self.settings.refit_seconds)
            turn.reach(1.0)
            turn.weights = self.model.transformer_checksum

        await self.engine.run("lora", work)

    def _refusal(self) -> str | None:
        """Say why a change of weights is refused, when a fault wants that; it may have changed them all the same."""
        if self.faults.spoil_refits:
            self.model.spoil()
            return "half of the weights were loaded (a simulated fault)"
        return "refits are refused (a simulated fault)" if self.faults.refuse_refits else None

    async def release(self) -> dict[str, Any]:
        """Fall asleep once all work before has ended; the reply is the worker's own."""

        def work(turn: Turn) -> dict[str, Any]:
            if self.faults.refuse_release:
                return self._occupation(success=False, message="falling asleep is refused (a simulated fault)")
            if self.sleeping:
                return self._occupation(success=True, message="already sleeping")
            turn.take(self.settings.release_seconds)
            turn.reach(1.0)
            self.sleeping = True
            return self._occupation(success=True, message="released GPU memory (moved active modules to CPU)")

        return await self.engine.run("release", work)

    async def resume(self) -> dict[str, Any]:
        """Wake up; the reply is that of the CPU worker that was measured."""

        def work(turn: Turn) -> dict[str, Any]:
            if self.faults.refuse_resume:
                return self._occupation(success=False, message="waking is refused (a simulated fault)")
            if not self.sleeping:
                return self._occupation(success=True, message="already awake")
            turn.take(self.settings.resume_seconds)
            turn.reach(1.0)
            self.sleeping = False
            return self._occupation(success=True, message="no restore map; marked awake")

        return await self.engine.run("resume", work)

    def _occupation(self, *, success: bool, message: str) -> dict[str, Any]:
        return {"success": success, "sleeping": self.sleeping, "message": message}


def _no_progress(_share: float) -> None:
    """Nobody watches."""
