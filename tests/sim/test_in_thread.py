import http.client
import logging
import socket

import httpx2
import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from sglang_diffusion_routing.sim.settings import SimSettings

pytestmark = pytest.mark.loopback


def test_a_worker_listens_in_the_block_and_is_gone_after_it() -> None:
    with SimInThread() as sim:
        assert httpx2.get(f"{sim.url}/health").json() == {"status": "ok"}
        assert sim.worker.name == f"sim-{httpx2.URL(sim.url).port}"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{sim.url}/health")


def test_a_restarted_worker_has_its_old_address_and_its_first_weights() -> None:
    with SimInThread() as sim:
        url, first = sim.url, sim.worker.model.transformer_checksum
        httpx2.post(f"{url}/update_weights_from_disk", json={"model_path": "sim/new"}).raise_for_status()
        assert sim.worker.model.transformer_checksum != first
        sim.crash()
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/health")
        sim.restart()
        assert sim.url == url
        assert httpx2.get(f"{url}/sim/state").json()["weights"] == first


def test_a_crash_does_not_wait_for_work() -> None:
    with SimInThread(SimSettings(overhead_seconds=60.0)) as sim, httpx2.Client(base_url=sim.url) as client:
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/rollout/generate", json={"prompt": "a", "width": 64, "height": 64, "seed": 1}, timeout=0.2)
        assert sim.worker.engine.running == "rollout"


def test_its_errors_are_silent_and_another_uvicorn_still_speaks(caplog: pytest.LogCaptureFixture) -> None:
    with SimInThread() as sim:
        assert httpx2.post(f"{sim.url}/get_weights_checksum").status_code == 500
        logging.getLogger("uvicorn.error").error("another server")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == ["another server"]


def test_cutting_silent_connections_leaves_the_others_alone() -> None:
    with SimInThread() as sim:
        url = httpx2.URL(sim.url)
        with socket.create_connection((url.host, url.port or 0), timeout=5) as silent:
            # Connections are accepted in turn: the silent one has been once a later one is answered.
            later = http.client.HTTPConnection(url.host, url.port, timeout=5)
            for _ in range(2):
                later.request("GET", "/health")
                assert later.getresponse().read() == b'{"status":"ok"}'
                sim.cut_silent()
            later.close()
            assert silent.recv(1) == b""
