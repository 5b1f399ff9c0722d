import signal
import threading
import time

import httpx2
import pytest

from sglang_diffusion_routing.sim.process import SimFailedToStart, SimProcess
from sglang_diffusion_routing.sim.server import bound
from sglang_diffusion_routing.sim.settings import SimSettings
from support.deadlines import eventually

pytestmark = pytest.mark.e2e

ROLLOUT = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 4, "seed": 1}


@pytest.fixture(scope="module")
def slow() -> SimProcess:
    """A worker whose generations take a second."""
    return SimProcess(overhead_seconds=1.0, name="slow")


def test_a_process_is_ready_when_the_block_begins() -> None:
    with SimProcess(name="w1", speed=4.0) as sim:
        state = httpx2.get(f"{sim.url}/sim/state").json()
        assert (state["name"], state["pid"], sim.returncode) == ("w1", sim.pid, None)
        assert sim.url == f"http://127.0.0.1:{sim.port}"


def test_two_processes_make_the_same_bytes_of_the_same_seed() -> None:
    with SimProcess() as first, SimProcess() as second:
        images = [
            httpx2.post(
                f"{sim.url}/v1/images/generations",
                json={"prompt": "a cat", "size": "64x64", "num_inference_steps": 4, "response_format": "b64_json"},
            ).json()["data"][0]["b64_json"]
            for sim in (first, second)
        ]
    assert images[0] == images[1]


def test_a_terminated_worker_closes_its_door_and_finishes_its_work(slow: SimProcess) -> None:
    with slow as sim:
        replies: list[int] = []
        working = threading.Thread(
            target=lambda: replies.append(httpx2.post(f"{sim.url}/rollout/generate", json=ROLLOUT).status_code)
        )
        working.start()
        eventually(lambda: httpx2.get(f"{sim.url}/sim/state").json()["running"], lambda kind: kind == "rollout")
        stopping = threading.Thread(target=sim.stop)
        stopping.start()
        eventually(lambda: refuses(sim), lambda refused: refused)
        assert replies == []
        working.join(10.0)
        stopping.join(10.0)
        assert (replies, sim.returncode) == ([200], -signal.SIGTERM)


def refuses(sim: SimProcess) -> bool:
    try:
        httpx2.get(f"{sim.url}/liveness", timeout=1.0)
    except httpx2.ConnectError:
        return True
    return False


def test_a_killed_worker_comes_back_at_the_same_address() -> None:
    with SimProcess() as sim:
        url, pid = sim.url, sim.pid
        sim.kill()
        assert sim.returncode == -signal.SIGKILL
        sim.restart()
        assert (sim.url, sim.pid != pid) == (url, True)
        assert httpx2.get(f"{url}/health").status_code == 200


def test_a_suspended_worker_is_connected_and_silent() -> None:
    with SimProcess() as sim:
        sim.suspend()
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(f"{sim.url}/health", timeout=0.3)
        sim.resume_process()
        assert httpx2.get(f"{sim.url}/health").status_code == 200


def test_a_worker_told_to_die_is_gone_without_an_answer() -> None:
    with SimProcess() as sim:
        with pytest.raises(httpx2.TransportError):
            httpx2.post(f"{sim.url}/sim/faults", json={"die": True})
        eventually(lambda: sim.returncode, lambda status: status == 1)


async def test_starting_can_be_awaited() -> None:
    async with SimProcess(model="wan") as sim:
        assert httpx2.get(f"{sim.url}/model_info").json()["task_type"] == "T2V"
    assert sim.returncode == -signal.SIGKILL


def test_a_worker_that_cannot_start_says_so() -> None:
    with bound(SimSettings()) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SimFailedToStart, match="status 1"), SimProcess(port=port, strict_ports=True):
            pass


def test_what_was_never_started_has_no_pid() -> None:
    with pytest.raises(RuntimeError, match="not been started"):
        _ = SimProcess().pid


def test_a_worker_starts_quickly() -> None:
    started_s = time.monotonic()
    with SimProcess():
        assert time.monotonic() - started_s < 5.0  # 0.3 s on an idle machine
