"""The terms of a request: what the router is told about it and no worker sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request asks of the router (docs/scheduling.md). None asks for nothing.

    group: keeps all requests of this name on one worker; spread: spreads them instead.
    worker: URL of the one worker that may do it.
    priority: `interactive`, `evaluation`, `training`, `batch`, or 0 to 9.
    tenant: on whose fair share it goes.
    cost_mpx_steps: its work, for bodies that do not say it.
    queue_timeout_s: how long it may wait for a worker.
    min_weight_version: the weights that it must be made on, or later ones.
    request_id: its name in logs and for `abort`.
    """

    group: str | None = None
    spread: bool = False
    worker: str | None = None
    priority: str | int | None = None
    tenant: str | None = None
    cost_mpx_steps: float | None = None
    queue_timeout_s: float | None = None
    min_weight_version: str | None = None
    request_id: str | None = None

    def headers(self) -> dict[str, str]:
        """Give the header fields that say so.

        Raises:
            ValueError: `spread` without a group.
        """
        if self.spread and self.group is None:
            raise ValueError("only a group can be spread: name it")
        group = f"{self.group};spread" if self.spread else self.group
        fields = {
            "x-sglang-router-group": group,
            "x-sglang-router-worker": self.worker,
            "x-sglang-router-priority": self.priority,
            "x-sglang-router-tenant": self.tenant,
            "x-sglang-router-cost": self.cost_mpx_steps,
            "x-sglang-router-queue-timeout": self.queue_timeout_s,
            "x-sglang-router-min-weight-version": self.min_weight_version,
            "x-request-id": self.request_id,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


NO_TERMS = Terms()
