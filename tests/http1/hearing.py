"""What tests of one connection share: settings with short limits, and requests, replies and refusals."""

import json

from http1.peers import Peer
from sglang_diffusion_routing.settings import Settings

SETTINGS = Settings(
    max_head_bytes=2048,
    max_uri_bytes=256,
    client_head_timeout_s=10.0,
    client_body_timeout_s=60.0,
    client_body_min_bytes=0,
    client_idle_timeout_s=75.0,
    stall_timeout_s=300.0,
)
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def refusal(client: Peer) -> tuple[int, dict[bytes, bytes], dict[str, object]]:
    """Read an error reply of the router: status, header fields, body."""
    line, *lines = (await client.read_head()).split(b"\r\n")[:-2]
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return int(line.split()[1]), fields, json.loads(await client.read(int(fields[b"content-length"])))
