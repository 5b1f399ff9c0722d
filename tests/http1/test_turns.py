import pytest

from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.reply_head import ReplyHead, parse_reply_head
from sglang_diffusion_routing.http1.turns import Turns

pytestmark = pytest.mark.core


class Least(Turns):
    """Decides only what must be decided."""

    def upstream_head(self) -> bytes:
        return b""

    def on_connect_failed(self, error: ConnectFailed) -> None: ...

    def on_died(self, *, replayable: bool) -> None: ...

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None: ...


def test_what_an_exchange_must_decide() -> None:
    assert Turns.__abstractmethods__ == {"upstream_head", "on_connect_failed", "on_died", "on_end"}


def test_what_is_not_decided_passes_every_reply_on_as_it_is() -> None:
    head = parse_reply_head(b"HTTP/1.1 503 No\r\nLocation: http://w/x\r\nContent-Length: 2\r\n\r\n", to_head=False)
    least = Least()
    assert least.reply_lines(head) == b""
    assert least.relocated(head) == head.block == b"Location: http://w/x\r\nContent-Length: 2\r\n"
    assert least.hold_limit_bytes(head) == 0
    assert least.on_held(head, b"no")
