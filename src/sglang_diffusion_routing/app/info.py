"""What `GET /router_info` tells of the process and its machine."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from sglang_diffusion_routing.runtime.saver import Saver
from sglang_diffusion_routing.schemas import RouterInfo, StateInfo
from sglang_diffusion_routing.settings import Settings

OWN_FILES = Path("/proc/self/fd")


def reader(settings: Settings, counters: DataPlaneCounters, saver: Saver) -> Callable[[], RouterInfo]:
    """Give the function that looks now; it asks the file system, so call it in a thread."""
    started_s, started = time.monotonic(), datetime.now(UTC)

    def look() -> RouterInfo:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return RouterInfo(
            version=__version__,
            pid=os.getpid(),
            started_at=started.isoformat(),
            now=datetime.now(UTC).isoformat(),
            uptime_s=time.monotonic() - started_s,
            open_files=sum(1 for _ in OWN_FILES.iterdir()),
            open_files_limit=None if limit == resource.RLIM_INFINITY else limit,
            client_connections=counters.connections_now,
            max_client_connections=settings.max_client_connections,
            idle_reuse_s=settings.idle_reuse_s,
            routing_algorithm=settings.routing_algorithm.value,
            state=_state(saver),
        )

    return look


def _state(saver: Saver) -> StateInfo | None:
    path = saver.path
    if path is None:
        return None
    # What was written last may still be in the journal beside it.
    parts = (path, path.with_name(f"{path.name}-wal"))
    return StateInfo(
        path=str(path),
        size_bytes=sum(part.stat().st_size for part in parts if part.exists()),
        free_bytes=shutil.disk_usage(path.parent).free,
        unsaved=saver.unsaved,
        write_failures=saver.failures,
    )
