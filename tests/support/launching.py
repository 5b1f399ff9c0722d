"""Launcher files for simulated workers, which a router starts as it starts real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SIMULATED = [sys.executable, "-m", "sglang_diffusion_routing", "sim"]


def launcher_file(folder: Path, **keys: object) -> Path:
    """Write a launcher file; JSON is YAML."""
    wanted = {
        "model": "sim/model",
        "num_workers": 1,
        "num_gpus_per_worker": 0,
        # Below the range from which the system takes ports for connections; those that are taken are passed over.
        "worker_base_port": 21_000,
        "master_port_base": 23_000,
        "scheduler_port_base": 25_000,
        "internal_port_stride": 20,
        "worker_command": SIMULATED,
        "restart_delay": 0.1,
        "log_dir": str(folder / "logs"),
    }
    file = folder / "launcher.yaml"
    file.write_text(json.dumps({"launcher": {**wanted, **keys}}))
    return file
