"""Say which GPUs each worker gets, without a GPU library."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers.config import LauncherConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY_LIMIT_S = 30.0
"""The driver of an idle machine takes some seconds to wake without persistence mode."""

_LISTED = re.compile(r"GPU (\d+): ")


def assign(config: LauncherConfig, environ: Mapping[str, str], found: Callable[[], int]) -> list[str | None]:
    """Give for each worker the value of CUDA_VISIBLE_DEVICES, None to leave it alone.

    Args:
        found: counts the GPUs of this machine; asked when nothing else says which there are.

    Raises:
        BadSetting: there are too few.
    """
    workers, each = config.num_workers, config.num_gpus_per_worker
    if config.worker_gpu_ids is not None:
        return list(config.worker_gpu_ids)
    if each == 0:
        return [None] * workers
    gpus, whence = _known(environ, found)
    if len(gpus) < workers * each:
        raise BadSetting(
            "launcher",
            f"wants {workers * each} GPUs, {each} for each of {workers} workers, and {whence}; "
            "0 GPUs a worker is for engines that need none",
        )
    return [",".join(gpus[worker * each : (worker + 1) * each]) for worker in range(workers)]


def _known(environ: Mapping[str, str], found: Callable[[], int]) -> tuple[Sequence[str], str]:
    """Give the GPUs that there are, and half a sentence about who says so."""
    visible = environ.get(VISIBLE)
    if visible is not None:
        # CUDA itself ignores what stands behind the first that is none (programming guide, environment variables).
        gpus = [word.strip() for word in visible.split(",")]
        valid = gpus[: next((at for at, word in enumerate(gpus) if word in {"", "-1"}), len(gpus))]
        return valid, f"{VISIBLE} names {len(valid)}"
    number = found()
    return [str(index) for index in range(number)], f"this machine has {number}"


def count() -> int:
    """Count the GPUs of this machine: the driver's library says, else nvidia-smi; none where there is no driver."""
    number = _count_by_nvml()
    return _count_by_program() if number is None else number


def _count_by_nvml(library: str = "libnvidia-ml.so.1") -> int | None:
    """Ask the driver's own library, without a package for it (NVML API reference)."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    number = ctypes.c_uint()
    failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    nvml.nvmlShutdown()
    return None if failed else number.value


def _count_by_program(name: str = "nvidia-smi") -> int:
    program = shutil.which(name)
    if program is None:
        return 0
    try:
        listed = subprocess.run(  # noqa: S603 - no argument comes from outside
            [program, "--list-gpus"], capture_output=True, text=True, timeout=QUERY_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len({line[1] for line in map(_LISTED.match, listed.stdout.splitlines()) if line})
