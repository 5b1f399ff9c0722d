"""The wire shapes of the control API, as clients read them; the OpenAPI document is made from these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

LABELS_MAX = 32

Item = dict[str, Any]

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/:@+ -]{0,128}$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=LABELS_MAX)]


class _Request(BaseModel):
    """A body or a query that a client writes: what is not known is refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Reply(BaseModel):
    """What the router writes; older clients ignore the fields they do not know."""

    model_config = ConfigDict(frozen=True)


class WorkerView(_Reply):
    """One worker as clients see it."""

    worker_id: str = Field(description="the canonical URL; percent-encode it in paths")
    display_id: str = Field(description="host:port")
    id: str = Field(description="the same as worker_id")
    url: str
    active_requests: int = Field(description="leases held, jobs included")
    is_dead: bool = Field(description="quarantined")
    is_sleeping: bool
    consecutive_failures: int = Field(description="failed probes in a row")
    video_support: bool | None = Field(description="null while unknown")
    status: str = Field(description="the first that applies of removed, draining, quarantined, ..., active")
    state: str
    health: str
    weight_version: str | None = Field(description="null when it is not known what the worker has loaded")
    jobs: int = Field(description="leases of jobs, which outlive their requests")
    queued: int = Field(description="active requests that wait in the worker behind the one it runs")
    task_types: list[str] | None = Field(description="null while unknown")
    model: str | None
    max_concurrency: int | None = Field(description="the worker's own cap; null for the router's")
    speed: float | None = Field(description="learned speed; null while unknown")
    labels: dict[str, str]


class WorkerList(_Reply):
    """Every worker, in the order of registration."""

    workers: list[WorkerView]


class WorkerReply(_Reply):
    """One worker."""

    worker: WorkerView


class WorkerChanged(_Reply):
    """A worker after a change."""

    status: Literal["success"] = "success"
    worker: WorkerView


class WorkerRemoved(_Reply):
    """What became of a removal: "draining" goes on until the worker's last request has ended."""

    status: Literal["success", "draining"]
    worker_id: str


class UrlList(_Reply):
    """The URLs of every worker, in the order of registration."""

    urls: list[str]


class WorkerAdded(_Reply):
    """The reply of the first generation's `/add_worker`: every worker with its requests in flight."""

    status: Literal["success"] = "success"
    worker_urls: dict[str, int]


class Status(_Reply):
    """An outcome in one word."""

    status: str


class HealthReply(_Reply):
    """Whether any worker serves; healthy = registered - quarantined - asleep - never answered."""

    status: Literal["healthy", "unhealthy"]
    healthy_workers: int
    total_workers: int
    dead_workers: int = Field(description="quarantined")
    sleeping_workers: int


class RegisterWorker(_Request):
    """A worker to register, by `url` or by its older name `worker_url`."""

    url: str | None = None
    worker_url: str | None = None

    @model_validator(mode="after")
    def _one_url(self) -> "RegisterWorker":
        if self.url is not None and self.worker_url is not None and self.url != self.worker_url:
            raise ValueError("'url' and 'worker_url' name different workers")
        return self

    @property
    def address(self) -> str | None:
        """Give the URL under whichever name it came."""
        return self.url if self.url is not None else self.worker_url


class _Query(BaseModel):
    """A query's parameters, which come as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoveWorker(_Query):
    """How a worker is removed."""

    force: bool = Field(default=False, description="at once, and with its work cancelled")


class UnregisterWorker(RemoveWorker):
    """A worker to remove, by `url` or by its older name `worker_url`, and how."""

    url: str | None = None
    worker_url: str | None = None


class UpdateWorker(_Request):
    """What an operator changes on a worker; a field that is absent stays as it is."""

    is_dead: bool | None = Field(None, description="true quarantines until false is set; false ends a quarantine")
    refresh_video_support: bool | None = Field(None, description="true asks the worker again what it makes")
    state: Literal["active", "drained"] | None = Field(None, description="drained: no new work until active is set")
    max_concurrency: int | None = Field(None, ge=0, le=100_000, description="0 for no limit; null for the router's own")
    labels: Labels | None = Field(None, description="replace the worker's labels")

    @field_validator("is_dead", "refresh_video_support", "state", "labels", mode="before")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("must not be null")
        return value

    @model_validator(mode="after")
    def _something(self) -> "UpdateWorker":
        if not self.model_fields_set:
            raise ValueError(f"the body must change something: {', '.join(type(self).model_fields)}")
        return self


class Pause(_Request):
    """How long the queue is held."""

    timeout_s: float | None = Field(None, gt=0, le=86_400, allow_inf_nan=False, description="the pause ends by itself")


class PauseReply(_Reply):
    """Whether the queue is held, and how many requests wait in it."""

    status: Literal["paused", "running"]
    queued: int


class Abort(_Request):
    """What to drop from the queue: exactly one of the three."""

    all: bool | None = Field(None, description="true: everything that is queued")
    rid: str | None = Field(None, min_length=1, description="the request with this X-Request-Id")
    group: str | None = Field(None, min_length=1, description="the requests with this x-sglang-router-group")

    @field_validator("all")
    @classmethod
    def _only_true(cls, value: bool | None) -> bool | None:
        if value is False:
            raise ValueError("must be true")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "Abort":
        if [self.all, self.rid, self.group].count(None) != 2:
            raise ValueError("the body must name one of: all, rid, group")
        return self


class AbortReply(_Reply):
    """How many queued requests were dropped."""

    aborted: int


class FanOutRow(_Reply):
    """What one worker answered."""

    worker_url: str
    status_code: int = Field(description="502 when the worker could not be reached")
    body: object = Field(description='decoded JSON, {"raw": text}, or {"error": why}')


class SkippedRow(_Reply):
    """A worker that was not asked."""

    worker_url: str
    reason: str


class FanOutReply(_Reply):
    """One row a worker, in the order of registration."""

    results: list[FanOutRow]
    success: bool = Field(description="every worker that was asked did it")
    skipped: list[SkippedRow]
    message: str | None = None
    weight_version: str | None = None
    consistent: bool | None = Field(None, description="checksums: all workers hold the same weights")
    refit: str | None = Field(None, description="id of the refit, for GET /refits/{id}")


class RefitRow(_Reply):
    """How far one worker is in a refit."""

    worker_url: str
    status: Literal[
        "waiting", "draining", "updating", "updated", "refused", "lost", "expired", "superseded", "conflict", "skipped"
    ] = Field(description="waiting: its turn has not come; expired: its work did not end in time")
    status_code: int | None = Field(None, description="of its answer; null while there is none")
    reason: str = Field("", description="its own words, or why it was left out")
    seconds: float | None = Field(None, description="from the order to its end")


class RefitView(_Reply):
    """A refit, under way or over."""

    id: str
    route: str
    mode: Literal["drain", "rolling", "immediate"]
    weight_version: str | None = Field(description="null until its turn has come, where the router counts")
    groups: list[str] = Field(description="weight groups that it is for")
    status: Literal["waiting", "open", "succeeded", "partial", "failed", "interrupted"] = Field(
        description="partial: some workers have the new weights; interrupted: the router ended in the middle of it"
    )
    reason: str = Field("", description="why it failed as a whole")
    started_at: str = Field(description="RFC 3339, UTC")
    ended_at: str | None
    parts: int = Field(description="requests with weights so far; more than one only between begin and commit")
    workers: list[RefitRow]


class RefitList(_Reply):
    """Refits, the newest first."""

    refits: list[RefitView]


class RefitReply(_Reply):
    """One refit."""

    refit: RefitView


class RefitQuery(_Query):
    """How many refits to show."""

    limit: int = Field(20, ge=1, le=256)


class ErrorReply(BaseModel):
    """Every error of the router; further fields are its facts."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="one sentence")
    code: str = Field(description="stable, for programs")


class ListQuery(_Query):
    """Which page of a list."""

    after: str | None = Field(None, min_length=1, max_length=512, description="id of the item behind which it starts")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


class ObjectList(_Reply):
    """A page of jobs, in the shape of OpenAI's lists; each item is as its worker gave it."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelList(_Reply):
    """Models, each as the first worker that serves it gave it."""

    object: Literal["list"] = "list"
    data: list[Item]
