"""The realtime WebSocket of a model that cannot stream."""

import msgpack
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from sglang_diffusion_routing.sim.routes.common import TheWorker

router = APIRouter()


@router.websocket("/v1/realtime_video/generate")
async def generate(socket: WebSocket, worker: TheWorker) -> None:
    """Accept anybody, and answer every message with an error frame, as a real worker does whose model cannot stream."""
    await socket.accept()
    await worker.warm.wait()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await socket.send_bytes(msgpack.packb({"type": "error", "content": "invalid generate request"}))
    except WebSocketDisconnect:
        return
