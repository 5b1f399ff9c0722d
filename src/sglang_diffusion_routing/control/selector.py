"""Read `?selector=`: which workers a call is for."""

from collections.abc import Iterable

from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, UnknownWorker

EVERYONE = "all"


def select(text: str, workers: Iterable[Worker]) -> list[Worker]:
    """Pick the workers that `text` names, in the order in which `workers` has them.

    Args:
        text: `all`, a label `key=value`, or worker ids or URLs with commas between them.

    Returns:
        The workers; none when no worker has the label.

    Raises:
        InvalidField: nothing is named, or a label has no key.
        InvalidWorkerUrl: a name is no worker URL.
        UnknownWorker: a named worker is not registered.
    """
    workers = list(workers)
    if text == EVERYONE:
        return workers
    if "=" in text:
        key, _, value = text.partition("=")
        if not key:
            raise InvalidField("selector", "'selector' must name a label as key=value")
        return [worker for worker in workers if (key, value) in worker.labels]
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted:
        raise InvalidField("selector", "'selector' must name workers: ids, URLs, a label key=value, or all")
    ids = {WorkerId(str(WorkerUrl.parse(part))) for part in wanted}
    picked = [worker for worker in workers if worker.worker_id in ids]
    if missing := ids - {worker.worker_id for worker in picked}:
        raise UnknownWorker(min(missing))
    return picked
