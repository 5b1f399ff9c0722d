"""A trainer that knows what the weights of its every version are, and tells the oracle what it was answered."""

import asyncio
import base64
import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from sglang_diffusion_routing.sim.model import Model
from sglang_diffusion_routing.sim.settings import SimSettings
from sglang_diffusion_routing.sim.tensors import to_safetensors
from sglang_diffusion_routing.sim.weights import shapes_of, write_checkpoint
from support.forked import ForkedRouter, ForkedSim
from support.oracle import Offer, Oracle

CHECKPOINTS = 4


def write_checkpoints(folder: Path, model: str = "sd3") -> list[Path]:
    """Write the checkpoints that disk refits load."""
    paths = [folder / f"checkpoint-{number}" for number in range(CHECKPOINTS)]
    for number, path in enumerate(paths):
        write_checkpoint(path, 100 + number, model=model)
    return paths


class RouterGone(Exception):
    """The router went away before it answered: nobody knows what it has done."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any

    def __str__(self) -> str:
        if not isinstance(self.body, dict) or "results" not in self.body:
            return f"{self.status} {self.body}"
        rows = [f"{row['worker_url'].rpartition(':')[2]} {row['status_code']}" for row in self.body["results"]]
        rest = {key: value for key, value in self.body.items() if key != "results"}
        return f"{self.status} {rows} {rest}"

    @property
    def was_taken(self) -> bool:
        """Whether a refit has succeeded on some worker."""
        return self.status == 200 and any(is_success(row) for row in self.body["results"])


def is_success(row: dict[str, Any]) -> bool:
    """Tell whether one worker did what it was told; `success: false` in a 200 is a refusal."""
    return row["status_code"] == 200 and row["body"].get("success") is not False


class Trainer:
    """One who changes the fleet's weights, one change at a time.

    Args:
        client: for calls of any length.
        settings: those of every worker.
    """

    def __init__(
        self,
        router: ForkedRouter,
        client: httpx2.AsyncClient,
        checkpoints: Sequence[Path],
        rng: random.Random,
        settings: SimSettings,
    ) -> None:
        self._router = router
        self._now_s = router.now_s
        self._client = client
        self._checkpoints = checkpoints
        self._rng = rng
        self._model = Model(settings)
        self._disk: dict[str, Path] = {}
        self._versions = 0
        self.is_sure = True
        self.oracle = Oracle.starting_with("0", self._model.transformer_checksum)

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        """Make a call of the control API; status 0 when the router was not there.

        Raises:
            RouterGone: there is no answer.
        """
        sent_s = self._now_s()
        try:
            response = await self._client.request(method, self._router.url + path, json={} if body is None else body)
        except httpx2.ConnectError:
            assert self._router.was_down(sent_s), f"{method} {path}: the router is up and does not listen"
            return Answer(0, None)
        except httpx2.TransportError as error:
            if not self._router.was_down(sent_s):
                raise AssertionError(f"{method} {path} got no answer: {error!r}") from error
            raise RouterGone from error
        return Answer(response.status_code, response.json())

    async def refit(self, action: str, mode: str, workers: Sequence[ForkedSim]) -> Answer | None:
        """Do a refit of the named kind; None when the router went away meanwhile."""
        if not self.is_sure and action not in {"disk refit", "tensor refit", "bracketed refit"}:
            action = "disk refit"  # an edit means nothing when nobody knows what it would edit
        match action:
            case "disk refit" | "transformer refit":
                modules = ["transformer"] if action == "transformer refit" else None
                return await self._from_disk(self._new_version(), self._rng.choice(self._checkpoints), mode, modules)
            case "earlier disk refit":
                version = self._rng.choice(list(self._disk) or [self._new_version()])
                path = self._disk.get(version, self._checkpoints[0])
                return await self._from_disk(version, path, mode, None)
            case "tensor refit":
                return await self._from_tensors(mode)
            case "bracketed refit":
                return await self._in_brackets("immediate" if mode == "immediate" else "drain")
            case "reported refit":
                return await self._reported(workers)
            case _:
                return await self._lora(action, mode)

    async def final_refit(self) -> tuple[str, Answer | None]:
        """Load a checkpoint that rebuilds everything; give its version and the answer."""
        version = self._new_version()
        return version, await self._from_disk(version, self._checkpoints[0], "drain", None)

    def _new_version(self) -> str:
        self._versions += 1
        return f"v{self._versions}"

    async def _from_disk(self, version: str, path: Path, mode: str, modules: list[str] | None) -> Answer | None:
        model = copy.deepcopy(self._model)
        assert model.update_from_disk(str(path), modules).success
        if modules is None:
            self._disk[version] = path
        body = {"model_path": str(path)} | ({} if modules is None else {"target_modules": modules})
        return await self._offer(version, model, mode, "/update_weights_from_disk", body)

    async def _lora(self, action: str, mode: str) -> Answer | None:
        version, model = self._new_version(), copy.deepcopy(self._model)
        body: dict[str, Any] = {}
        match action:
            case "set lora":
                strength = round(self._rng.uniform(0.1, 1.0), 2)
                body = {"lora_nickname": version, "lora_path": f"hub/{version}", "strength": strength}
                model.set_adapters(nicknames=[version], paths=[f"hub/{version}"], targets=["all"], strengths=[strength])
                path = "/v1/set_lora"
            case "merge lora":
                model.merge_adapters(1.0)
                path = "/v1/merge_lora_weights"
            case "unmerge lora":
                model.unmerge_adapters()
                path = "/v1/unmerge_lora_weights"
            case _:
                raise AssertionError(action)
        return await self._offer(version, model, mode, path, body)

    async def _from_tensors(self, mode: str) -> Answer | None:
        version, model = self._new_version(), copy.deepcopy(self._model)
        (payload,) = _payloads(version, 1)
        assert model.update_from_tensor(payload, None).success
        body = {"serialized_named_tensors": [payload]}
        return await self._offer(version, model, mode, "/update_weights_from_tensor", body)

    async def _in_brackets(self, mode: str) -> Answer | None:
        """Send the tensors in two parts, the fence holding between them."""
        version, model = self._new_version(), copy.deepcopy(self._model)
        payloads = _payloads(version, 2)
        for payload in payloads:
            assert model.update_from_tensor(payload, None).success
        offer = self._offered(version, model, mode)
        path = "/update_weights_from_tensor?refit="
        first, second = ({"serialized_named_tensors": [payload]} for payload in payloads)
        try:
            answer = await self.call("POST", f"{path}begin&weight_version={version}&mode={mode}", first)
            if answer.status == 200:
                await asyncio.sleep(self._rng.uniform(0.0, 0.2))
                if self._rng.random() < 0.5:
                    await self.call("POST", path + "part", second)
                    answer = await self.call("POST", path + "commit")
                else:
                    answer = await self.call("POST", path + "commit", second)
        except RouterGone:
            return self._lost(offer, replayable=False)
        return self._answered(offer, model, answer)

    async def _reported(self, workers: Sequence[ForkedSim]) -> Answer | None:
        """Send tensors straight to the workers, then tell the router; nobody generates meanwhile."""
        version, model = self._new_version(), copy.deepcopy(self._model)
        (payload,) = _payloads(version, 1)
        assert model.update_from_tensor(payload, None).success
        offer = self._offered(version, model, "immediate")
        body = {"serialized_named_tensors": [payload]}
        for worker in workers:
            pushed = await self._client.post(f"{worker.url}/update_weights_from_tensor", json=body)
            assert pushed.status_code == 200, pushed.text
        try:
            urls = [worker.url for worker in workers]
            answer = await self.call("POST", "/weights/reported", {"weight_version": version, "workers": urls})
        except RouterGone:
            return self._lost(offer, replayable=False)
        return self._answered(offer, model, answer)

    async def _offer(self, version: str, model: Model, mode: str, path: str, body: dict[str, Any]) -> Answer | None:
        offer = self._offered(version, model, mode)
        try:
            answer = await self.call("POST", f"{path}?weight_version={version}{_query(mode)}", body)
        except RouterGone:
            return self._lost(offer, replayable=path in {"/update_weights_from_disk", "/v1/set_lora"})
        return self._answered(offer, model, answer)

    def _offered(self, version: str, model: Model, mode: str) -> Offer:
        return self.oracle.offered(
            version,
            model.transformer_checksum,
            self._now_s(),
            abrupt=mode == "immediate",
            gapless=mode != "rolling",
        )

    def _lost(self, offer: Offer, *, replayable: bool) -> None:
        """Nobody knows what became of it; one that is resumed keeps its fence over the router's end."""
        self.is_sure = False
        offer.gapless = offer.gapless and replayable

    def _answered(self, offer: Offer, model: Model, answer: Answer) -> Answer:
        if answer.was_taken:
            self.oracle.took(offer, self._now_s())
            self._model = model
            self.is_sure = True
        else:
            self.oracle.declined(offer, self._now_s())
        return answer


def _query(mode: str) -> str:
    name, _, more = mode.partition(" ")
    return f"&mode={name}" + (f"&{more}" if more else "")


def _payloads(version: str, parts: int) -> list[str]:
    """Draw all tensors of a transformer from a version's name, in so many payloads."""
    rng = np.random.default_rng(list(version.encode()))
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes_of("transformer").items()}
    named = list(tensors.items())
    return [base64.b64encode(to_safetensors(dict(named[part::parts]))).decode() for part in range(parts)]
