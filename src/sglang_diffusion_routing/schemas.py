"""The wire shapes of the control API, as clients read them; the OpenAPI document is made from these."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

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


class LaunchedView(_Reply):
    """A worker that this router has started, and keeps running."""

    slot: int
    phase: str = Field(description="starting, loading, ready, stopping, stopped, backing_off, waiting, crash_looping")
    restarts: int = Field(description="starts after the first")
    pid: int | None = Field(description="null elsewhere than on the router's machine, and while no process runs")
    log: str | None


class SlotView(LaunchedView):
    """A slot of the launcher, whether its worker is registered or not."""

    worker_id: str | None = Field(description="of the worker that runs, or ran last")
    reason: str = Field(description="why it is where it is, in half a sentence; empty while all is well")
    seconds: float = Field(description="how long it has been in this phase")
    tail: list[str] = Field(description="the last lines of its log, while it loads and after it died")
    facts: dict[str, str | int | None] = Field(description="its GPUs, its node: what its backend knows")


class SlotList(_Reply):
    """Every slot of the launcher; none without one."""

    slots: list[SlotView]


class SlotOrdered(_Reply):
    """An order that a slot follows from now on."""

    status: Literal["restarting", "stopping", "starting"]
    slot: SlotView


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
    reason: str = Field(description="why it gets no work, in a sentence; empty while it does")
    state: str
    health: str
    weight_version: str | None = Field(description="null when it is not known what the worker has loaded")
    jobs: int = Field(description="leases of jobs, which outlive their requests")
    queued: int = Field(description="active requests that wait in the worker behind the one it runs")
    task_types: list[str] | None = Field(description="null while unknown")
    model: str | None
    max_concurrency: int | None = Field(description="the worker's own cap; null for the router's")
    ramp: int | None = Field(
        description="pieces of work that it gets at once until it has done more of them well; null when it has"
    )
    speed: float | None = Field(description="learned speed in megapixel-steps per second; null while unknown")
    speed_confidence: float = Field(description="how much of that is its own work, from 0 to 1")
    labels: dict[str, str]
    launcher: LaunchedView | None = Field(None, description="null for a worker that this router has not started")


class TenantView(_Reply):
    """What waits of one tenant."""

    tenant: str = Field(description="as the request names it; a digest where that may be a credential")
    requests: int
    bytes: int
    weight: float = Field(description="its share of the work and of the queue, as a part of all weights that wait")


class QueueView(_Reply):
    """What waits in the router for a worker."""

    requests: int
    bytes: int = Field(description="heads and bodies that are kept for them")
    oldest_seconds: float | None = Field(description="how long the oldest has waited; null while nothing waits")
    tenants: list[TenantView] = Field(description="the 20 tenants with most requests waiting, most first")


class WorkerList(_Reply):
    """Every worker, in the order of registration, and what waits for any of them."""

    workers: list[WorkerView]
    queue: QueueView


class WorkerReply(_Reply):
    """One worker."""

    worker: WorkerView


class WorkerChanged(_Reply):
    """A worker after a change."""

    status: Literal["success"] = "success"
    worker: WorkerView


class WorkersChanged(_Reply):
    """Several workers after a change, in the order in which they were named."""

    status: Literal["success"] = "success"
    workers: list[WorkerView]


class WorkerRemoved(_Reply):
    """What became of a removal: "draining" goes on until the worker's last request has ended."""

    status: Literal["success", "draining"]
    worker_id: str


class WorkersRemoved(_Reply):
    """What became of the removal of several workers, by URL: "draining" when any of them drains."""

    status: Literal["success", "draining"]
    draining: list[str] = Field(description="removed when their last request has ended")
    removed: list[str]


class WorkersSwapped(WorkersRemoved):
    """What became of each worker, by URL, when the whole set was named."""

    workers: list[WorkerView] = Field(description="the set, in the order in which it was named")
    added: list[str]
    kept: list[str] = Field(description="registered before; only the labels and the cap that were given are new")


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


class StateInfo(_Reply):
    """The file of what outlives the router."""

    path: str
    size_bytes: int
    free_bytes: int = Field(description="left on its disk")
    unsaved: int = Field(description="changes that are not on disk yet")
    write_failures: int


class RouterInfo(_Reply):
    """The router's process, and the machine that it is on."""

    version: str
    pid: int
    started_at: str = Field(description="RFC 3339, UTC")
    now: str = Field(description="by the router's clock: RFC 3339, UTC")
    uptime_s: float
    open_files: int
    open_files_limit: int | None = Field(description="null: none")
    client_connections: int
    max_client_connections: int
    idle_reuse_s: float = Field(description="how long a connection to a worker may have idled to be used again")
    routing_algorithm: str
    state: StateInfo | None = Field(description="null: nothing is kept")


class WorkerAddress(_Request):
    """A worker by its `url`, or by the older name `worker_url`."""

    url: str | None = Field(None, description="of the worker: scheme, host and port")
    worker_url: str | None = Field(None, description="the same, by its older name")

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if self.url is not None and self.worker_url is not None and self.url != self.worker_url:
            raise ValueError("'url' and 'worker_url' name different workers")
        return self

    @property
    def address(self) -> str | None:
        """Give the URL under whichever name it came."""
        return self.url if self.url is not None else self.worker_url


def _not_null(value: object) -> object:
    if value is None:
        raise ValueError("must not be null")
    return value


GivenLabels = Annotated[Labels | None, BeforeValidator(_not_null), Field(description="replace the worker's labels")]
GivenCap = Annotated[int | None, Field(ge=0, le=100_000, description="0 for no limit; null or absent leaves it alone")]


class WorkerEntry(_Request):
    """A worker to register; what is absent is as it was, or as it is for every new worker."""

    url: str
    labels: GivenLabels = None
    max_concurrency: GivenCap = None


class WorkerSet(_Request):
    """Workers to register: `urls` that share labels and cap, or `workers` that have their own."""

    urls: list[str] | None = Field(None, description="of several workers")
    workers: list[WorkerEntry] | None = Field(None, description="several, each with its url, labels and cap")
    labels: GivenLabels = None
    max_concurrency: GivenCap = None

    @model_validator(mode="after")
    def _each_has_its_own(self) -> Self:
        for name in ("labels", "max_concurrency"):
            if self.workers is not None and name in self.model_fields_set:
                raise ValueError(f"each of 'workers' has its own {name!r}")
        return self

    @property
    def ways(self) -> list[str]:
        """Name the fields that say which workers are meant."""
        return [name for name, value in (("urls", self.urls), ("workers", self.workers)) if value is not None]


class RegisterWorkers(WorkerAddress, WorkerSet):
    """A worker to register by its address, or several."""

    worker_type: Literal["regular"] | None = Field(None, description="for clients of SGLang's router; all are regular")


class SwapWorkers(WorkerSet):
    """The workers that there are to be from now on, by `urls` or by `workers`; none when the list is empty."""

    @model_validator(mode="after")
    def _named_in_one_way(self) -> Self:
        if len(self.ways) != 1:
            raise ValueError("the body must have one of: urls, workers")
        return self


class _Query(BaseModel):
    """A query's parameters, which come as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoveWorker(_Query):
    """How a worker is removed."""

    force: bool = Field(default=False, description="at once, and with its work cancelled")


class OrderSlot(_Query):
    """How a worker is stopped or replaced."""

    force: bool = Field(default=False, description="at once; its work goes elsewhere or fails")


class SelectWorkers(_Query):
    """Which workers are meant; a list does no harm, so whatever else a client's tools add is let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    selector: str = Field(default="all", description="ids or URLs with commas between them, a label key=value, or all")


class RemoveWorkers(RemoveWorker):
    """Which workers are removed, and how; `all` must be said."""

    selector: str = Field(description="ids or URLs with commas between them, a label key=value, or all")


class UnregisterWorker(RemoveWorker):
    """A worker to remove, by `url` or by its older name `worker_url`, and how."""

    url: str | None = Field(None, description="of the worker")
    worker_url: str | None = Field(None, description="the same, by its older name")


class UpdateWorker(_Request):
    """What an operator changes on a worker; a field that is absent stays as it is."""

    is_dead: bool | None = Field(None, description="true quarantines until false is set; false ends a quarantine")
    refresh_video_support: bool | None = Field(None, description="true asks the worker again what it makes")
    state: Literal["active", "drained"] | None = Field(None, description="drained: no new work until active is set")
    max_concurrency: int | None = Field(None, ge=0, le=100_000, description="0 for no limit; null for the router's own")
    labels: GivenLabels = None

    _not_null = field_validator("is_dead", "refresh_video_support", "state", mode="before")(_not_null)

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

    limit: int = Field(20, ge=1, le=256, description="how many, the newest first")


class GroupRefit(_Reply):
    """The refit under way in a weight group."""

    id: str
    weight_version: str
    mode: Literal["drain", "rolling", "immediate"]
    admit_new: bool = Field(description="rolling: only the new weights serve as soon as one worker has them")


class TargetRaised(_Reply):
    """When a version became the target: 1 for the first refit, and one more with each."""

    weight_version: str
    sequence: int


class WorkerWeights(_Reply):
    """What one worker of a weight group has."""

    worker_url: str
    weight_version: str | None = Field(description="null when it is not known what the worker has loaded")
    status: str
    reason: str = Field(description="why its weights are not current; empty when they are")


class GroupWeights(_Reply):
    """What a weight group wants and what its workers have."""

    target: str | None = Field(description="null before any refit")
    sequence: int = Field(description="how often there was a new target")
    previous: str | None = Field(description="serves as well until a rolling refit has ended")
    unproven: bool = Field(description="remembered from before the router's restart; no worker was seen to have it yet")
    open: GroupRefit | None
    replayable: bool = Field(description="a worker that was started anew can be brought to the target")
    obstacle: str | None = Field(description="why not")
    checksums: dict[str, str] | None = Field(description="of the target, else of what workers start with")
    history: list[TargetRaised] = Field(description="the newest first")
    workers: list[WorkerWeights]


class WeightsReply(_Reply):
    """The ledger, by weight group."""

    groups: dict[str, GroupWeights]
    ungrouped: list[WorkerWeights] = Field(description="workers that have not said yet what they serve")


class ReportWeights(_Request):
    """Weights that the trainer has given to the engines itself."""

    weight_version: Annotated[str, Field(min_length=1, max_length=256, description='"0": what they started with')]
    workers: list[str] | None = Field(None, min_length=1, description="ids or URLs; absent: all that serve")

    @field_validator("weight_version")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("must be printable")
        return value


class ErrorReply(BaseModel):
    """Every error of the router; further fields are its facts."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="one sentence")
    code: str = Field(description="stable, for programs")


class ListQuery(_Query):
    """Which page of a list."""

    after: str | None = Field(None, min_length=1, max_length=512, description="id of the item behind which it starts")
    limit: int = Field(20, ge=1, le=100, description="items of a page")
    order: Literal["asc", "desc"] = Field("desc", description="desc: the newest first")


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
