"""Tests of the file of the audit."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.app.audit_log import audit_file, reopened
from sglang_diffusion_routing.errors import BadSetting


def test_it_goes_on_in_a_fresh_file_when_the_old_one_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    file = audit_file(path)
    try:
        path.rename(tmp_path / "audit.1")
        reopened(file)()
        file.add({"n": 1})
    finally:
        file.close()
    assert ((tmp_path / "audit.1").read_text(), path.read_text()) == ("", '{"n": 1}\n')


def test_a_file_that_cannot_be_had_stops_the_start() -> None:
    with pytest.raises(BadSetting, match=r"^--audit-log /no/such/audit cannot be written: No such file or directory$"):
        audit_file(Path("/no/such/audit"))


def test_a_file_that_cannot_be_had_again_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = audit_file(folder / "audit")
    folder.rename(tmp_path / "gone")
    try:
        with pytest.raises(BadSetting, match="cannot be written"):
            reopened(file)
        file.add({"n": 1})
    finally:
        file.close()
    assert (tmp_path / "gone" / "audit").read_text() == '{"n": 1}\n'
