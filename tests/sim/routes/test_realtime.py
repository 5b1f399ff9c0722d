import msgpack
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sim.conftest import Running

pytestmark = pytest.mark.loopback


def address(sim: Running, path: str) -> str:
    return sim.sim.url.replace("http://", "ws://") + path


@pytest.mark.parametrize("message", [b"junk", "text", msgpack.packb({"type": "init", "prompt": "a"})])
def test_every_message_is_answered_by_an_error_frame(sim: Running, message: bytes | str) -> None:
    with connect(address(sim, "/v1/realtime_video/generate")) as socket:
        for _ in range(2):
            socket.send(message)
            assert socket.recv(timeout=10) == b"\x82\xa4type\xa5error\xa7content\xb8invalid generate request"


def test_an_unknown_path_is_refused(sim: Running) -> None:
    with pytest.raises(InvalidStatus) as refusal, connect(address(sim, "/nope")):
        pass
    assert refusal.value.response.status_code == 403
