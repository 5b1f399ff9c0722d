"""Names of workers that stand for addresses of the test's choice."""

from typing_extensions import override

from sglang_diffusion_routing.core.worker import WorkerUrl
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.connect import Connector


class Resolving(Connector):
    """Gives the same addresses for every name, and refuses it when there are none.

    asked: what has been resolved.
    """

    def __init__(self, *addresses: str, why: str = "it is refused") -> None:
        super().__init__()
        self.asked: list[WorkerUrl] = []
        self._addresses = addresses
        self._why = why

    @override
    async def resolve(self, url: WorkerUrl) -> list[str]:
        self.asked.append(url)
        if not self._addresses:
            raise ConnectFailed(str(url), self._why)
        return list(self._addresses)
