"""Tests of the record of changes."""

import json
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.runtime import audit as audit_module
from sglang_diffusion_routing.runtime.audit import FILE_MODE, QUEUE_MAX, Audit, AuditFile

FACTS = {"method": "POST", "path": "/pause_generation", "status": 200}


def test_a_change_is_a_line_of_the_log() -> None:
    with capture_logs() as lines:
        Audit().changed(FACTS)
    assert lines == [{"event": "control_change", "log_level": "info", **FACTS}]


def test_a_change_is_a_line_of_json_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_text("before\n")
    path.chmod(FILE_MODE)
    audit = Audit()
    audit.keep_in(AuditFile(path))
    for status in (200, 409):
        audit.changed({**FACTS, "status": status, "path": "/a\nb\x1b[0m"})
    audit.close()
    audit.close()
    before, *lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert before == "before"
    assert [(record["status"], record["path"]) for record in records] == [(200, "/a\nb\x1b[0m"), (409, "/a\nb\x1b[0m")]
    assert all(record["time"].endswith("+00:00") for record in records)


def test_a_new_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    AuditFile(tmp_path / "audit").close()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_costs_records_and_one_line_of_the_log() -> None:
    with capture_logs() as lines:
        file = AuditFile(Path("/dev/full"))
        for _ in range(3):
            file.add(FACTS)
        file.close()
    assert file.lost == 3
    assert lines == [
        {
            "event": "audit_log_not_written",
            "log_level": "error",
            "path": "/dev/full",
            "why": "No space left on device",
        }
    ]


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, cuts = os.write, [5]

    def write(file: int, line: bytes) -> int:
        return really(file, line[: cuts.pop()] if cuts else line)

    monkeypatch.setattr(audit_module.os, "write", write)
    with capture_logs() as lines:
        file = AuditFile(tmp_path / "audit")
        for status in (200, 201, 202):
            file.add({"status": status})
        file.close()
    assert (tmp_path / "audit").read_text().splitlines() == ['{"sta', '{"status": 201}', '{"status": 202}']
    assert [line["event"] for line in lines] == ["audit_log_not_written", "audit_log_goes_on"]
    assert file.lost == 1


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, may_go_on = os.write, threading.Event()

    def write(file: int, line: bytes) -> int:
        may_go_on.wait(30)
        return really(file, line)

    monkeypatch.setattr(audit_module.os, "write", write)
    file = AuditFile(tmp_path / "audit")
    for number in range(QUEUE_MAX + 10):
        file.add({"n": number})
    lost = file.lost
    may_go_on.set()
    file.close()
    # The writer holds one, or none yet.
    assert lost in {9, 10}
    assert len((tmp_path / "audit").read_text().splitlines()) == QUEUE_MAX + 10 - lost
