"""Declare every metric.

Nothing is counted here: the hot path counts plain numbers, and a scrape reads them. A label has few values by nature (a
status, a kind of route) or as many as there are workers; job ids, paths and models are never labels.
"""

from sglang_diffusion_routing.metrics.kinds import Declared, Kind

WORKERS = Declared("sgld_router_workers", Kind.GAUGE, "registered workers by the status that is shown", ("status",))
WORKER_IN_FLIGHT = Declared(
    "sgld_router_worker_in_flight_requests", Kind.GAUGE, "leases that a worker holds, jobs included", ("worker",)
)
WORKER_SPEED = Declared(
    "sgld_router_worker_speed_mpx_steps_per_second",
    Kind.GAUGE,
    "learned speed of a worker, in megapixel-steps per second; absent before its first finished work",
    ("worker",),
)
WORKER_ROUTABLE = Declared("sgld_router_worker_routable", Kind.GAUGE, "1 when a worker may get work", ("worker",))
WORKER_STATUS = Declared(
    "sgld_router_worker_status", Kind.GAUGE, "1 for the status that is shown of a worker", ("worker", "status")
)
WORKER_HEALTH = Declared(
    "sgld_router_worker_health", Kind.GAUGE, "1 for what a worker's checks have come to", ("worker", "health")
)
WORKER_FAILED_CHECKS = Declared(
    "sgld_router_worker_failed_checks", Kind.GAUGE, "health checks that a worker has failed in a row", ("worker",)
)
WORKER_WEIGHTS = Declared(
    "sgld_router_worker_weight_version",
    Kind.GAUGE,
    "1 for the weight version that a worker's replies carry; absent while it is unknown",
    ("worker", "version"),
)
WORKER_REQUESTS = Declared(
    "sgld_router_worker_requests_total",
    Kind.COUNTER,
    "leases that have ended on a registered worker, by route and by how",
    ("worker", "route", "outcome"),
)
STATUS_CHANGES = Declared(
    "sgld_router_worker_status_changes_total", Kind.COUNTER, "times that a worker came to have a status", ("status",)
)
QUARANTINES = Declared(
    "sgld_router_quarantines_total", Kind.COUNTER, "times that a worker was taken out of routing for its health"
)
ASLEEP = Declared("sgld_router_asleep", Kind.GAUGE, "1 while the fleet sleeps")
PAUSED = Declared("sgld_router_paused", Kind.GAUGE, "1 while the queue is held by an operator")
QUEUED = Declared("sgld_router_queue_requests", Kind.GAUGE, "requests that wait for a worker")
QUEUED_BYTES = Declared("sgld_router_queue_bytes", Kind.GAUGE, "bytes of heads and bodies that wait for a worker")
QUEUE_OLDEST = Declared(
    "sgld_router_queue_oldest_seconds", Kind.GAUGE, "how long the oldest of what waits has waited; 0 while nothing does"
)
QUEUE_WAIT = Declared(
    "sgld_router_queue_wait_seconds",
    Kind.HISTOGRAM,
    "how long work waited for a worker, in all its attempts, in vain or not",
    ("route",),
)
TIME_TO_HEAD = Declared(
    "sgld_router_time_to_head_seconds",
    Kind.HISTOGRAM,
    "from the arrival of work to the head of its reply",
    ("route",),
)
GENERATION = Declared(
    "sgld_router_generation_seconds",
    Kind.HISTOGRAM,
    "how long a worker was at work that it did: until the head of a sized reply, the end of another, or of the job",
    ("route",),
)
RELAY = Declared(
    "sgld_router_relay_seconds",
    Kind.HISTOGRAM,
    "from the head of a whole reply to its last byte",
    ("route",),
)
LEASES = Declared("sgld_router_leases", Kind.GAUGE, "live leases")
LEASES_ENDED = Declared("sgld_router_leases_ended_total", Kind.COUNTER, "leases that have ended, by how", ("result",))
REFUSALS = Declared("sgld_router_refusals_total", Kind.COUNTER, "requests that got no lease, by error code", ("code",))
PROBES = Declared("sgld_router_probes_total", Kind.COUNTER, "health probes by outcome", ("outcome",))
SENTINEL_ENDS = Declared(
    "sgld_router_sentinel_ends_total",
    Kind.COUNTER,
    "silent connections to workers that ended: a death, a restart or a cut",
)
CONTROL_CALLS = Declared(
    "sgld_router_control_calls_total", Kind.COUNTER, "calls on workers by how they ended", ("ended",)
)
REFITS = Declared("sgld_router_refits_total", Kind.COUNTER, "fleet transactions by outcome", ("outcome",))
REFIT_DURATION = Declared(
    "sgld_router_refit_duration_seconds",
    Kind.HISTOGRAM,
    "how long fleet transactions took from their turn to their end, by outcome",
    ("outcome",),
)
RESYNCS = Declared(
    "sgld_router_resyncs_total",
    Kind.COUNTER,
    "workers that were looked at, and sent what they had missed, by outcome: checked had the right weights already",
    ("outcome",),
)
REQUESTS = Declared(
    "sgld_router_requests_total",
    Kind.COUNTER,
    "requests of clients, by route and by class of the reply's status",
    ("route", "status"),
)
BYTES = Declared("sgld_router_bytes_total", Kind.COUNTER, "body bytes relayed", ("direction",))
RETRIES = Declared("sgld_router_retries_total", Kind.COUNTER, "requests that were sent to another worker")
RETRIES_OVER_BUDGET = Declared(
    "sgld_router_retries_over_budget_total",
    Kind.COUNTER,
    "requests that got their worker's failure because too many others were being retried",
)
SPOOLED = Declared("sgld_router_replay_spool_bytes", Kind.GAUGE, "request bodies on disk, kept for another try")
SPOOL_FAILURES = Declared(
    "sgld_router_replay_spool_failures_total", Kind.COUNTER, "request bodies that the disk did not take"
)
HEDGES = Declared("sgld_router_hedges_total", Kind.COUNTER, "copies of late work that were sent to another worker")
HEDGES_WON = Declared(
    "sgld_router_hedges_won_total", Kind.COUNTER, "copies of late work that were ahead of, or outlived, the original"
)
ORPHANS = Declared("sgld_router_orphans", Kind.GAUGE, "requests whose client has left while the worker goes on")
ORPHANED = Declared(
    "sgld_router_orphaned_total", Kind.COUNTER, "requests whose client has left while the worker went on"
)
JOBS = Declared("sgld_router_jobs", Kind.GAUGE, "jobs that are under way, such as videos")
TUNNELS = Declared("sgld_router_tunnels", Kind.GAUGE, "open WebSocket tunnels")
TUNNELS_OPENED = Declared("sgld_router_tunnels_opened_total", Kind.COUNTER, "WebSocket tunnels that were opened")
CONNECTIONS = Declared("sgld_router_client_connections", Kind.GAUGE, "open client connections")
CONNECTIONS_OPENED = Declared(
    "sgld_router_client_connections_opened_total", Kind.COUNTER, "client connections that were opened"
)
WORKER_CONNECTIONS = Declared(
    "sgld_router_worker_connections", Kind.GAUGE, "open connections to workers and to the control app"
)
WORKER_CONNECTIONS_OPENED = Declared(
    "sgld_router_worker_connections_opened_total",
    Kind.COUNTER,
    "connections to workers and to the control app that were opened",
)
WATCHERS = Declared("sgld_router_watchers", Kind.GAUGE, "open event streams, such as a dashboard's")
THUMBNAILS = Declared(
    "sgld_router_thumbnails_total",
    Kind.COUNTER,
    "replies with images, where thumbnails are kept: made, missed for coming too closely, none in it, unreadable",
    ("outcome",),
)
SLOTS = Declared(
    "sgld_router_launcher_slots", Kind.GAUGE, "places of workers that the router starts, by phase", ("phase",)
)
RESTARTS = Declared("sgld_router_launcher_restarts_total", Kind.COUNTER, "workers that the router has started again")
STATE_UNSAVED = Declared(
    "sgld_router_state_unsaved", Kind.GAUGE, "changes that are not on disk yet; more than a moment means a fault"
)
STATE_FAILURES = Declared(
    "sgld_router_state_write_failures_total", Kind.COUNTER, "attempts to write the state file that failed"
)
LOOP_LAG = Declared(
    "sgld_router_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    "how late the event loop is for what is due, ten times a second",
)
LOOP_LAG_MAX = Declared(
    "sgld_router_event_loop_lag_max_seconds", Kind.GAUGE, "the largest such delay of the last 30 to 60 seconds"
)
BUILD = Declared("sgld_router_build_info", Kind.GAUGE, "1; what runs here", ("version", "python"))
