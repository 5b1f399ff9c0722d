"""Declare every setting of the router: type, default, bounds, unit and meaning.

A field's name ends in its unit (`_s` seconds, `_bytes`); the flag, the environment variable and the YAML key are that
name without `_s`. Times and sizes may be written with a unit: `15m`, `256MiB`.
"""

from pydantic import BaseModel, ConfigDict, field_validator

from sglang_diffusion_routing.settings import rules
from sglang_diffusion_routing.settings.choices import (
    STATE_AUTO,
    TENANT_FIELD,
    LogFormat,
    LogLevel,
    OnDisconnect,
    RoutingAlgorithm,
    setting,
)
from sglang_diffusion_routing.settings.units import (
    Bytes,
    Count,
    CountsAndWords,
    Keys,
    Networks,
    OptionalCount,
    OptionalSeconds,
    OptionalText,
    Percent,
    Seconds,
    Switch,
    Words,
)

KIB, MIB = 2**10, 2**20


class Settings(BaseModel):
    """Everything that can be set, checked and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    host: str = setting("Listening", "0.0.0.0", "address to listen on", min_length=1)
    port: Count = setting("Listening", 30080, "port to listen on; 0 takes any free one", ge=0, le=65535)
    max_client_connections: Count = setting("Listening", 16384, "client connections open at the same time", ge=1)
    max_connections_per_client: Count = setting(
        "Listening", 0, "of them, those of one address, or of one IPv6 network of 64 bits; 0 for no limit", ge=0
    )
    max_tunnels: Count = setting("Listening", 1024, "WebSocket tunnels open at the same time", ge=0)
    trusted_peers: Networks = setting(
        "Listening", (), "networks of the proxies whose X-Forwarded-* headers are kept", word="NETWORK"
    )

    worker_urls: Words = setting("Workers", (), "workers to register at the start", word="URL")
    launcher_config: OptionalText = setting(
        "Workers", None, "YAML file that says which workers to start (docs/launchers.md)", word="FILE"
    )
    min_ready: OptionalCount = setting(
        "Workers", None, "started workers that must serve before the router says that it listens; off for all", ge=0
    )
    allow_worker: Words = setting(
        "Workers",
        (),
        "hosts and networks that workers must be in, each with :PORT or :PORT-PORT if wanted; empty allows all",
        word="HOST",
    )
    discover: Words = setting(
        "Workers",
        (),
        "lists of workers to follow: dns://NAME:PORT, where each address is a worker, and file:PATH",
        word="SOURCE",
    )
    discover_interval_s: Seconds = setting("Workers", 5.0, "between two readings of such a list", gt=0)
    max_connections: Count = setting("Workers", 0, "connections to one worker at the same time; 0 for no limit", ge=0)
    idle_reuse_s: Seconds = setting(
        "Workers",
        4.0,
        "reuse a connection to a worker that idled no longer than this; workers close theirs after 5 s",
        ge=0,
    )

    routing_algorithm: RoutingAlgorithm = setting(
        "Routing", RoutingAlgorithm.LEAST_WORK, "what waits next, and which of several workers gets it"
    )
    max_concurrency_per_worker: Count = setting(
        "Routing",
        2,
        "pieces of work that a worker holds at the same time; the rest waits in the router; 0 for no limit",
        ge=0,
    )
    ramp: Switch = setting(
        "Routing", default=True, meaning="give a worker that is new, or back, more work only as it does that well"
    )
    retries: Count = setting("Routing", 1, "other workers to try after a failure that is safe to repeat", ge=0, le=8)
    retry_on: CountsAndWords = setting(
        "Routing",
        (),
        "also try another worker after short replies with these statuses, of 500, 502, 503 and 504, and, once, after "
        "the timeout; the first worker may have done the work, or be at it",
        word="STATUS",
    )
    retry_budget_percent: Count = setting(
        "Routing",
        20,
        "of all requests at work or waiting, how many may be on another worker because of --retry-on, but always 10; "
        "100 for no limit",
        ge=0,
        le=100,
    )
    hedge: Switch = setting(
        "Routing",
        default=False,
        meaning="have late work that names a seed done by an idle worker as well; the first answer counts",
    )
    replay_max_bytes: Bytes = setting("Routing", MIB, "keep request bodies up to this size for another try", ge=0)
    replay_spool_max_bytes: Bytes = setting(
        "Routing", 0, "keep larger ones up to this size on disk for another try; 0 keeps none", ge=0
    )
    replay_spool_total_bytes: Bytes = setting("Routing", 16 * 1024 * MIB, "request bodies on disk, together", ge=0)
    replay_spool_dir: str = setting(
        "Routing", "", "folder for request bodies on disk; empty for the system's own for temporary files"
    )
    seed: OptionalCount = setting("Routing", None, "seed of the policies that draw lots; none for a fresh one")
    on_disconnect: OnDisconnect = setting(
        "Routing",
        OnDisconnect.DISCARD,
        "when a client leaves: await its reply and discard it (workers work on), or cancel (for engines that do stop)",
    )
    queue_max_requests: Count = setting("Routing", 16384, "requests that wait for a worker; more get 429", ge=0)
    queue_max_bytes: Bytes = setting("Routing", 256 * MIB, "heads and bodies of waiting requests, together", ge=0)
    tenant_field: str = setting(
        "Routing", TENANT_FIELD, "field of a request that names the tenant whose share of the workers it uses"
    )
    tenant_weights: Words = setting(
        "Routing", (), "weights of tenants that have others than 1: shares of work and queue", word="NAME=WEIGHT"
    )

    timeout_s: OptionalSeconds = setting(
        "Time limits", None, "from a request's arrival at a worker to its reply's head", gt=0
    )
    queue_timeout_s: OptionalSeconds = setting("Time limits", None, "wait for a worker", gt=0)
    connect_timeout_s: Seconds = setting("Time limits", 5.0, "connect to a worker", gt=0)
    client_head_timeout_s: Seconds = setting(
        "Time limits", 10.0, "from a request's first byte to the end of its head", gt=0
    )
    client_body_timeout_s: Seconds = setting("Time limits", 60.0, "silence in the middle of an upload", gt=0)
    client_idle_timeout_s: Seconds = setting("Time limits", 75.0, "an open connection without a request", gt=0)
    stall_timeout_s: Seconds = setting("Time limits", 300.0, "a peer that takes none of the bytes it is sent", gt=0)
    tunnel_idle_s: Seconds = setting("Time limits", 600.0, "a WebSocket tunnel without a byte either way", gt=0)
    orphan_timeout_s: Seconds = setting(
        "Time limits", 3600.0, "a worker stays charged with work whose client has left", gt=0
    )
    drain_timeout_s: Seconds = setting(
        "Time limits", 1800.0, "a worker ends its work before a refit, sleep or removal", gt=0
    )
    refit_part_timeout_s: Seconds = setting(
        "Time limits", 600.0, "silence between two requests of a refit that comes in several", gt=0
    )
    weights_wait_s: Seconds = setting(
        "Time limits", 600.0, "wait for a worker whose weights are as new as a request demands", gt=0
    )
    fan_out_timeout_s: Seconds = setting("Time limits", 1800.0, "one worker's answer to a call that goes to all", gt=0)
    shutdown_grace_s: Seconds = setting("Time limits", 30.0, "requests in flight after SIGTERM", ge=0)

    health_check_interval_s: Seconds = setting("Health", 10.0, "between two probes of a worker", gt=0)
    health_check_failure_threshold: Count = setting(
        "Health", 3, "failed probes in a row until a worker is quarantined", ge=1
    )
    probe_timeout_s: Seconds = setting("Health", 5.0, "wait for the answer to a probe", gt=0)
    busy_grace_s: Seconds = setting("Health", 900.0, "probes of a worker at work may time out for this long", ge=0)

    max_head_bytes: Bytes = setting("Sizes", 64 * KIB, "a request's or reply's head", ge=KIB, le=16 * MIB)
    max_uri_bytes: Bytes = setting("Sizes", 16 * KIB, "a request's target", ge=256, le=16 * MIB)
    max_body_bytes: Bytes = setting(
        "Sizes",
        0,
        "a request's body on its way to a worker; 0 for any; control requests have limits of their own",
        ge=0,
    )
    client_body_min_bytes: Bytes = setting(
        "Sizes", 32 * KIB, "of an upload, what must come within --client-body-timeout; 0 for any", ge=0
    )
    fan_out_reply_max_bytes: Bytes = setting("Sizes", MIB, "one worker's answer to a call that goes to all", ge=KIB)
    job_cap: Count = setting("Sizes", 100_000, "jobs whose owner is remembered; the oldest give way", ge=1)
    job_ttl_s: Seconds = setting("Sizes", 86_400.0, "how long the owner of a job is remembered", gt=0)

    state: OptionalText = setting(
        "State",
        STATE_AUTO,
        "where workers, weights, refits and jobs outlive the router; auto: a file of this host and port",
        word="FILE",
    )
    resume: Switch = setting("State", default=False, meaning="restore the state also after an orderly end")
    resync: Switch = setting(
        "State", default=True, meaning="bring a worker that missed a refit, or was restarted, to its group's weights"
    )
    hands_off: Switch = setting(
        "State",
        default=False,
        meaning="leave weights and sleep to a trainer that steers the workers itself: before a first refit compare "
        "none with its peers, and take none for asleep that was not put to sleep here",
    )

    api_key: Keys = setting(
        "Security",
        (),
        "keys for work and for looking at the fleet, and for control where there is no admin key; better from the "
        "environment or a file: everybody on the machine can read a command line",
        word="KEY",
    )
    api_key_file: OptionalText = setting("Security", None, "file of such keys, one a line", word="FILE")
    admin_key: Keys = setting("Security", (), "keys for what changes the fleet, and for all else", word="KEY")
    admin_key_file: OptionalText = setting("Security", None, "file of such keys, one a line", word="FILE")
    worker_keys: OptionalText = setting(
        "Security",
        None,
        "YAML file with the keys that workers want, by their addresses (docs/security.md)",
        word="FILE",
    )
    admin_host: str = setting("Security", "127.0.0.1", "address of the control listener (--admin-port)", min_length=1)
    admin_port: OptionalCount = setting(
        "Security",
        None,
        "serve control on a listener of its own and nowhere else; 0 takes any free port",
        ge=0,
        le=65535,
    )
    allow_host: Words = setting(
        "Security",
        (),
        "names by which browsers may reach control where no key is set; .NAME for all that end so",
        word="NAME",
    )
    audit_log: OptionalText = setting(
        "Security", None, "file to which each change of the fleet is added as a line of JSON", word="FILE"
    )

    tls_cert: OptionalText = setting(
        "TLS", None, "certificate chain that clients are shown, in PEM: the router speaks HTTPS", word="FILE"
    )
    tls_key: OptionalText = setting(
        "TLS", None, "its private key, not encrypted; off when it is in the same file", word="FILE"
    )
    tls_client_ca: OptionalText = setting(
        "TLS", None, "authorities, in PEM: only clients with a certificate of one of them are served", word="FILE"
    )
    worker_ca: OptionalText = setting(
        "TLS", None, "authorities of https workers, in PEM, instead of the system's", word="FILE"
    )
    worker_cert: OptionalText = setting(
        "TLS", None, "certificate chain that https workers are shown, in PEM", word="FILE"
    )
    worker_cert_key: OptionalText = setting(
        "TLS", None, "its private key, not encrypted; off when it is in the same file", word="FILE"
    )

    thumbnails: Count = setting(
        "Dashboard",
        0,
        "keep so many of the last generated images, small, and show them on /dashboard to whoever may look at it",
        ge=0,
        le=1000,
    )

    log_level: LogLevel = setting("Log", LogLevel.INFO, "least urgent events that are written")
    log_format: LogFormat = setting("Log", LogFormat.PEOPLE, "lines for people, or one JSON object each")
    verbose: Switch = setting("Log", default=False, meaning="the same as the log level debug")
    access_log: Switch = setting(
        "Log", default=False, meaning="write a line, at level info, for each request when it is over"
    )

    otlp_endpoint: OptionalText = setting(
        "Traces",
        None,
        "send traces to the collector at this address, by OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT counts where "
        "this is off",
        word="URL",
    )
    trace_sample_percent: Percent = setting(
        "Traces", 100.0, "of the traces that begin here, how many are recorded; those of clients are if theirs are"
    )

    _worker_urls = field_validator("worker_urls")(rules.worker_urls)
    _allow_worker = field_validator("allow_worker")(rules.allow_worker)
    _discover = field_validator("discover")(rules.discover)
    _tenant_field = field_validator("tenant_field")(rules.tenant_field)
    _tenant_weights = field_validator("tenant_weights")(rules.tenant_weights)
    _retry_on = field_validator("retry_on")(rules.retry_on)
    _otlp_endpoint = field_validator("otlp_endpoint")(rules.otlp_endpoint)

    @property
    def effective_log_level(self) -> LogLevel:
        """Give the log level that counts: `verbose` is a short way to say debug."""
        return LogLevel.DEBUG if self.verbose else self.log_level
