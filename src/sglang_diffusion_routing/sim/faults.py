"""What can be made to go wrong with a simulated worker, for tests."""

from pydantic import BaseModel, ConfigDict, Field

WORK_PATHS = (
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
    "/v1/meshes",
    "/v1/diffusion/generate",
    "/rollout/generate",
    "/vertex_generate",
)


class Faults(BaseModel):
    """The faults in force. `POST /sim/faults` with some of these fields changes those and leaves the others."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    only_paths: list[str] = Field(
        default=list(WORK_PATHS),
        description="paths, by prefix, that fail_next, cut_next and reply_delay_s apply to (POST only)",
    )
    fail_next: int = Field(
        default=0, ge=0, description="this many requests get 500 text/plain and a closed socket, undone"
    )
    cut_next: int = Field(default=0, ge=0, description="this many replies break off, the work being done")
    cut_after_bytes: int = Field(
        default=0, ge=0, description="bytes of body before a reply breaks off; 0 breaks off before the head"
    )
    reply_delay_s: float = Field(default=0.0, ge=0, description="seconds between a reply's readiness and its head")
    health_delay_s: float = Field(default=0.0, ge=0, description="seconds before /health answers")
    hang: bool = Field(default=False, description="answer nothing at all, /sim/* aside, until this is false again")
    slow_factor: float = Field(default=1.0, gt=0, description="all modelled durations are multiplied by this")
    broken: bool = Field(default=False, description="every generation fails while /health says 200")
    refuse_refits: bool = Field(default=False, description="refits are answered 400 and change nothing")
    spoil_refits: bool = Field(default=False, description="refits are answered 400 and change the weights")
    misload_refits: bool = Field(default=False, description="refits report success with other weights than asked for")
    refuse_release: bool = Field(default=False, description="falling asleep is answered 400 and does not happen")
    refuse_resume: bool = Field(default=False, description="waking is answered 400 and does not happen")
    die_in_generation: bool = Field(default=False, description="exit at once, half-way through the next generation")
    scheduler_dead: bool = Field(
        default=False, description="the scheduler's death: /health 503, work 503, for ever (only a restart helps)"
    )
    die: bool = Field(default=False, description="exit at once, without answering")

    def applies_to(self, method: str, path: str) -> bool:
        """Say whether fail_next, cut_next and reply_delay_s apply to a request."""
        return method == "POST" and path.startswith(tuple(self.only_paths))
