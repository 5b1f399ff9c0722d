"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
from typing_extensions import Unpack

from sglang_diffusion_routing.client import control, made, operations
from sglang_diffusion_routing.client.batches import Batch, Done, Tally
from sglang_diffusion_routing.client.errors import ClientError
from sglang_diffusion_routing.client.exchange import Send
from sglang_diffusion_routing.client.jobs import Jobs
from sglang_diffusion_routing.client.settings import (
    CONCURRENCY,
    DEFAULT_URL,
    Access,
    Options,
    RolloutRequest,
    numbered,
)
from sglang_diffusion_routing.client.terms import NO_TERMS, Terms
from sglang_diffusion_routing.client.transport import Transport


class Client:
    """A router, or one worker, for trainers and scripts. Safe to share between threads.

    Every call raises `Unreachable` when no reply comes and `Refused` when it is an error; what is decoded may raise
    `DecodeError`. Work is sent again while the router is full or has nobody for it, and when the connection breaks
    (`Retry`).

    Args:
        url: of the router.
        http: to send with, instead of connections of its own; its address, time-outs and certificates hold.
        options: api_key, admin_key, timeout_s, connect_timeout_s, ca_file, retry; `Options` says what they mean.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, http: httpx2.Client | None = None, **options: Unpack[Options]
    ) -> None:
        access = Access(url, **options)
        self.url = url
        self._retry = access.retry
        self._transport = Transport(access, http)
        self.videos = Jobs(self._transport, "videos", access.retry)
        self.meshes = Jobs(self._transport, "meshes", access.retry)

    def close(self) -> None:
        """Close the connections, if they are its own."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Work.

    def rollout(self, prompt: str, *, seed: int, terms: Terms = NO_TERMS, **request: Any) -> made.Rollout:
        """Make the samples of one prompt.

        Args:
            request: fields of SGLang's `RolloutRequest`: num_outputs_per_prompt, width, height,
                num_inference_steps, rollout_return_dit_trajectory, rollout_sde_type, ...
        """
        body = {"prompt": prompt, "seed": seed, **request}
        return self._transport.run(operations.rollout(body, terms, self._retry))

    def rollout_many(
        self,
        prompts: Sequence[RolloutRequest],
        *,
        seed: int | None = None,
        concurrency: int = CONCURRENCY,
        on_done: Callable[[Done], None] | None = None,
        terms: Terms | Callable[[int], Terms] = NO_TERMS,
        **request: Any,
    ) -> Batch:
        """Make the samples of many prompts, and give those that there are even if some fail.

        Args:
            prompts: or whole requests, whose own fields win over `request`.
            seed: of the first sample of the first prompt; later samples count on.
            concurrency: requests that are under way at once.
            on_done: called after each one, in this thread.
            terms: of all, or by index.
        """
        bodies = numbered(prompts, seed, request)
        tally = Tally(len(bodies))
        with ThreadPoolExecutor(max(1, min(concurrency, len(bodies)))) as threads:
            running: dict[Future[made.Rollout], int] = {}
            try:
                for index, body in enumerate(bodies):
                    own = terms(index) if callable(terms) else terms
                    work = operations.rollout(body, own, self._retry)
                    running[threads.submit(self._transport.run, work)] = index
                for future in as_completed(running):
                    error = future.exception()
                    if error is not None and not isinstance(error, ClientError):
                        raise error
                    done = tally.add(running[future], future.result() if error is None else error)
                    if on_done is not None:
                        on_done(done)
            except BaseException:
                # What has not begun need not begin; what has is waited for by the pool.
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return tally.batch()

    def generate(
        self, prompt: str, *, seed: int | None = None, terms: Terms = NO_TERMS, **request: Any
    ) -> made.Generation:
        """Make one sample by the native route of older workers; `get_latents` and `get_log_probs` ask for its path."""
        return self._transport.run(operations.generation(prompt, seed, request, terms, self._retry))

    def images(self, prompt: str, *, terms: Terms = NO_TERMS, **request: Any) -> made.Images:
        """Make images: size, n, seed, response_format, ... as in OpenAI's API."""
        return self._transport.run(operations.images(prompt, request, terms, self._retry))

    def edit_images(
        self, prompt: str, images: Sequence[str | Path], *, terms: Terms = NO_TERMS, **request: Any
    ) -> made.Images:
        """Change the images in these files."""
        return self._transport.run(operations.edits(prompt, images, request, terms, self._retry))

    # The fleet.

    def refit(
        self,
        model_path: str,
        *,
        weight_version: str | None = None,
        mode: str = "drain",
        target_modules: list[str] | None = None,
        timeout_s: float | None = None,
        selector: str | None = None,
        partial_ok: bool = False,
    ) -> dict[str, Any]:
        """Load a checkpoint into every worker, and give what each said (docs/refits.md).

        Raises:
            FanOutFailed: not every worker has it, and `partial_ok` is not set. Those without get no work.
        """
        send = control.refit(model_path, weight_version, mode, target_modules, timeout_s, selector)
        return self._transport.run(operations.fan_out("refit", send, partial_ok=partial_ok), control=True)

    def set_lora(
        self,
        lora_nickname: str,
        lora_path: str | None = None,
        *,
        weight_version: str | None = None,
        mode: str = "drain",
        partial_ok: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """Load a LoRA into every worker.

        Raises:
            FanOutFailed: as for `refit`.
        """
        send = control.set_lora(lora_nickname, lora_path, weight_version, mode, more)
        return self._transport.run(operations.fan_out("set_lora", send, partial_ok=partial_ok), control=True)

    def sleep(
        self, *, selector: str | None = None, timeout_s: float | None = None, partial_ok: bool = False
    ) -> dict[str, Any]:
        """Have the workers end their work and release their memory.

        Raises:
            FanOutFailed: not every worker has.
        """
        send = control.sleep(selector, timeout_s)
        return self._transport.run(operations.fan_out("sleep", send, partial_ok=partial_ok), control=True)

    def wake(self, *, selector: str | None = None, partial_ok: bool = False) -> dict[str, Any]:
        """Have the workers take their memory back.

        Raises:
            FanOutFailed: not every worker has.
        """
        return self._transport.run(
            operations.fan_out("wake", control.wake(selector), partial_ok=partial_ok), control=True
        )

    @contextmanager
    def paused(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the queue while the block runs; what runs already goes on, what comes waits.

        Args:
            timeout_s: after which the router goes on by itself, should this process die.
        """
        self.pause(timeout_s)
        try:
            yield
        finally:
            self.resume()

    def abort(self, *, group: str | None = None, request_id: str | None = None) -> int:
        """Drop what waits, of a group, of one name or all, and say how many requests that was."""
        return int(self._transport.run(operations.call(control.abort(group, request_id)), control=True)["aborted"])

    def checksums(self, *, selector: str | None = None) -> dict[str, Any]:
        """Give the checksums of every worker, and whether they are `consistent`."""
        return self._transport.run(
            operations.fan_out("checksums", control.checksums(selector), partial_ok=True), control=True
        )

    def workers(self) -> list[dict[str, Any]]:
        """Give the workers as the router sees them."""
        return list(self.get("/workers")["workers"])

    def weights(self) -> dict[str, Any]:
        """Give which weights each group wants and each worker has."""
        return self.get("/weights")

    def health(self) -> dict[str, Any]:
        """Give the router's health, also when it is bad."""
        return self._transport.run(operations.health())

    def pause(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Hold the queue until `resume`, or for so long; `paused` does both."""
        return self._transport.run(operations.call(control.pause(timeout_s)), control=True)

    def resume(self) -> dict[str, Any]:
        """Release the queue."""
        return self._transport.run(operations.call(control.resume()), control=True)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call a control route, with a JSON body if there is one, and give its JSON object."""
        return self._transport.run(operations.call(Send(method, path, json=body, params=params)), control=True)

    def text(self, path: str) -> str:
        """Give the text at a path of the router, such as /metrics."""
        return self._transport.run(operations.text(path), control=True)

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """Give the JSON object at a path of the router."""
        return self._transport.run(operations.call(Send("GET", path, params=params or None)), control=True)
