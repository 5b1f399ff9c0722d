"""Open the file that the settings name for the audit, and open it anew when it has been moved away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.runtime.audit import AuditFile


def audit_file(path: Path) -> AuditFile:
    """Open the file, or raise `BadSetting`."""
    try:
        return AuditFile(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def reopened(file: AuditFile) -> Callable[[], None]:
    """Go on in a fresh file of the same name; raises `BadSetting` and goes on in the old one."""
    try:
        file.reopen()
    except OSError as error:
        raise _unwritable(file.path, error) from None
    return lambda: None


def _unwritable(path: Path, error: OSError) -> BadSetting:
    return BadSetting(f"--audit-log {path}", f"cannot be written: {error.strerror or error}")
