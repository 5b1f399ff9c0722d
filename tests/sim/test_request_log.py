import os
from pathlib import Path

import httpx2
import pytest

from sim.conftest import Running, Start
from support.deadlines import eventually_equal

pytestmark = pytest.mark.loopback

ROLLOUT = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 4, "seed": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests"


@pytest.fixture
def logged(start: Start, path: Path) -> Running:
    return start(request_log=path)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def ask(sim: Running, request_id: str) -> int:
    return sim.post("/rollout/generate", json=ROLLOUT, headers={"X-Request-Id": request_id}).status_code


NOTED = ("arrived", "answering", "answered")


def test_a_request_is_noted_when_it_comes_and_when_it_is_and_has_been_answered(logged: Running, path: Path) -> None:
    assert [ask(logged, "first"), ask(logged, "second")] == [200, 200]
    pid = os.getpid()
    expected = [f"{what} {pid} {name}" for name in ("first", "second") for what in NOTED]
    eventually_equal(lambda: lines(path), expected)


def test_a_request_without_an_id_is_not(logged: Running, path: Path) -> None:
    logged.rollout()
    ask(logged, "last")
    eventually_equal(lambda: len(lines(path)), len(NOTED))


def test_a_reply_that_breaks_off_is_no_answer(logged: Running, path: Path) -> None:
    logged.sim.faults(cut_next=1, cut_after_bytes=10)
    with pytest.raises(httpx2.RemoteProtocolError):
        ask(logged, "cut")
    ask(logged, "last")
    expected = [["arrived", "cut"], ["answering", "cut"], *([what, "last"] for what in NOTED)]
    eventually_equal(lambda: [line.split()[::2] for line in lines(path)], expected)
