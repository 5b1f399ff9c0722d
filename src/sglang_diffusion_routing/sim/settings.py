"""What a simulated worker can be told at its start, each declared once."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sglang_diffusion_routing.sim.faults import Faults
from sglang_diffusion_routing.sim.profiles import PROFILES, Profile

MODULE = "sglang_diffusion_routing.sim"
READY = "sim worker ready on "  # how the one line that a process prints begins; its address follows


class SimSettings(BaseModel):
    """Settings of one simulated worker; a name, type or bound that does not fit raises `pydantic.ValidationError`.

    The command line makes its flags from these fields (`cli.py`): the name with dashes, the description as help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    strict_ports: bool = Field(
        default=False, description="fail when the port is taken, instead of moving to another one without a word"
    )
    ssl_certfile: str | None = Field(default=None, description="speak TLS, with this certificate chain in PEM")
    ssl_keyfile: str | None = Field(default=None, description="the certificate's key in PEM")
    ssl_ca_certs: str | None = Field(
        default=None, description="want a certificate of one of these authorities, in PEM, from every client"
    )
    broker: bool = Field(default=False, description="take port + 1 as well, as a real worker's broker does")
    scheduler_port: int | None = Field(default=None, ge=1, le=65535, description="take this port for the scheduler")
    master_port: int | None = Field(default=None, ge=1, le=65535, description="take this port for the process group")
    name: str = Field(default="", description="name in x-sim-worker; by default sim-PORT")
    model: Literal["sd3", "wan", "edit", "mesh"] = Field(
        default="sd3", description="which model to play: text to image, text to video, image edits, image to mesh"
    )
    model_path: str = Field(
        default="", description="the model's path or id; with --weights-seed it decides the weights"
    )
    served_model_name: str = Field(default="", description="the model's id in /v1/models; by default its path")
    weights_seed: int = Field(default=0, ge=0, description="another seed gives other weights at the same model path")
    num_gpus: int = Field(default=1, ge=1, description="number of GPUs to report; changes nothing else")
    seconds_per_mpx_step: float = Field(
        default=0.02,
        ge=0,
        description="seconds for one denoising step of one megapixel (Qwen-Image on an H100 needs about 0.24)",
    )
    overhead_seconds: float = Field(
        default=0.002, ge=0, description="seconds that any generation takes beside its steps"
    )
    speed: float = Field(default=1.0, gt=0, description="all modelled durations are divided by this")
    jitter: float = Field(default=0.0, ge=0, lt=1, description="durations vary evenly by this fraction up and down")
    seed: int = Field(default=0, ge=0, description="seed of the jitter")
    block_event_loop: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of each generation during which the HTTP loop answers nobody, as with large models",
    )
    pad_reply_bytes: int = Field(default=0, ge=0, description="bytes of padding in every image and rollout reply")
    warmup_seconds: float = Field(default=0.0, ge=0, description="seconds of warm-up: /health 503, other requests wait")
    refit_seconds: float = Field(default=0.02, ge=0, description="seconds that loading weights takes (real: 0.4)")
    release_seconds: float = Field(default=0.02, ge=0, description="seconds that falling asleep takes (real: 0.8)")
    resume_seconds: float = Field(default=0.005, ge=0, description="seconds that waking takes")
    enable_metrics: bool = Field(default=False, description="serve /metrics")
    output_dir: Path | None = Field(
        default=None, description="folder for images and videos; by default a temporary one, removed at the end"
    )
    request_log: Path | None = Field(
        default=None, description="file to which the x-request-id of each request that has one is appended"
    )
    faults: str = Field(default="", description="faults in force from the start, as POST /sim/faults takes them")
    verbose: bool = Field(default=False, description="log to stderr, with the traces of unhandled errors")

    @field_validator("faults")
    @classmethod
    def _are_faults(cls, text: str) -> str:
        if text:
            Faults.model_validate_json(text)
        return text

    @property
    def initial_faults(self) -> Faults:
        return Faults.model_validate_json(self.faults) if self.faults else Faults()

    @property
    def profile(self) -> Profile:
        return PROFILES[self.model]

    @property
    def effective_model_path(self) -> str:
        return self.model_path or self.profile.default_model_path

    @property
    def effective_served_model_name(self) -> str:
        return self.served_model_name or self.effective_model_path
