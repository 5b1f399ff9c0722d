"""Tests of which GPUs each worker gets."""

import os
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers import gpus
from sglang_diffusion_routing.launchers.config import LauncherConfig
from sglang_diffusion_routing.launchers.gpus import VISIBLE, assign

pytestmark = pytest.mark.core


def never() -> int:
    raise AssertionError("somebody has said already which GPUs there are")


def config(workers: int, each: int, ids: tuple[str, ...] | None = None) -> LauncherConfig:
    return LauncherConfig(model="m", num_workers=workers, num_gpus_per_worker=each, worker_gpu_ids=ids)


def test_the_file_decides_before_anything_else() -> None:
    assert assign(config(2, 2, ("0,1", "GPU-a,GPU-b")), {VISIBLE: "7"}, never) == ["0,1", "GPU-a,GPU-b"]


def test_then_the_environment_does() -> None:
    assert assign(config(2, 2), {VISIBLE: "3, 5,GPU-a,MIG-b,9"}, never) == ["3,5", "GPU-a,MIG-b"]


def test_then_those_that_are_found() -> None:
    assert assign(config(3, 1), {}, lambda: 4) == ["0", "1", "2"]


def test_an_engine_that_needs_none_is_left_what_it_sees() -> None:
    assert assign(config(2, 0), {VISIBLE: "0"}, never) == [None, None]


@pytest.mark.parametrize(
    ("environ", "found", "why"),
    [
        ({}, 3, "this machine has 3"),
        ({}, 0, "this machine has 0"),
        ({VISIBLE: "0,1"}, 8, "CUDA_VISIBLE_DEVICES names 2"),
        ({VISIBLE: ""}, 8, "CUDA_VISIBLE_DEVICES names 0"),
        ({VISIBLE: "0,-1,2,3"}, 8, "CUDA_VISIBLE_DEVICES names 1"),
    ],
)
def test_too_few_get_one_sentence(environ: dict[str, str], found: int, why: str) -> None:
    with pytest.raises(BadSetting) as caught:
        assign(config(2, 2), environ, lambda: found)
    assert caught.value.message == (
        f"launcher wants 4 GPUs, 2 for each of 2 workers, and {why}; 0 GPUs a worker is for engines that need none"
    )


def test_a_machine_without_the_drivers_library_is_asked_otherwise() -> None:
    assert gpus._count_by_nvml("libno-such-thing.so.1") is None
    assert gpus._count_by_program("no-such-program") == 0


def test_gpus_are_counted_as_nvidia_smi_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "an-smi"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n"
        "echo '  MIG 1g.18gb Device 0: (UUID: MIG-2)'\n"
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-3)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpus._count_by_program("an-smi") == 2
    program.write_text("#!/bin/sh\necho 'no devices were found' >&2\nexit 6\n")
    assert gpus._count_by_program("an-smi") == 0


def test_counting_agrees_with_itself() -> None:
    assert gpus.count() == gpus._count_by_program()
