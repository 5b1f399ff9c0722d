"""Client of a router: rollouts, images, videos, and the fleet's weights and sleep; blocking and asynchronous.

with Client("http://localhost:30080") as router:
    batch = router.rollout_many(prompts, seed=7, num_outputs_per_prompt=4, rollout_return_dit_trajectory=True)
    for rollout in batch.complete():
        latents = rollout.samples[0].trajectory.latents.torch()
    router.sleep()
"""

from sglang_diffusion_routing.client.async_client import AsyncClient
from sglang_diffusion_routing.client.async_jobs import AsyncJobs
from sglang_diffusion_routing.client.batches import Batch, Done
from sglang_diffusion_routing.client.client import Client
from sglang_diffusion_routing.client.errors import (
    ClientError,
    DecodeError,
    FanOutFailed,
    JobFailed,
    Refused,
    SamplesMissing,
    TookTooLong,
    Unreachable,
)
from sglang_diffusion_routing.client.jobs import Jobs
from sglang_diffusion_routing.client.made import Generation, Image, Images, Origin, Rollout, Sample, Trajectory
from sglang_diffusion_routing.client.operations import Retry
from sglang_diffusion_routing.client.tensors import Tensor
from sglang_diffusion_routing.client.terms import Terms

__all__ = [
    "AsyncClient",
    "AsyncJobs",
    "Batch",
    "Client",
    "ClientError",
    "DecodeError",
    "Done",
    "FanOutFailed",
    "Generation",
    "Image",
    "Images",
    "JobFailed",
    "Jobs",
    "Origin",
    "Refused",
    "Retry",
    "Rollout",
    "Sample",
    "SamplesMissing",
    "Tensor",
    "Terms",
    "TookTooLong",
    "Trajectory",
    "Unreachable",
]
