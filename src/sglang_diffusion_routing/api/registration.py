"""Read which workers a request names, and what they are to be registered with."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from sglang_diffusion_routing.api.bodies import read_model
from sglang_diffusion_routing.control.membership import Wanted, pairs
from sglang_diffusion_routing.errors import InvalidField
from sglang_diffusion_routing.schemas import RegisterWorkers, SwapWorkers, WorkerAddress, WorkerSet

SET_MAX_BYTES = 1024 * 1024
"""A body that names as many workers as there may be, each with a few labels."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a registration names. several: whether it named workers in a list, and is answered with one."""

    wanted: list[Wanted]
    several: bool


async def address_of(request: Request, query: WorkerAddress) -> str:
    """Find the one worker URL in the query or in the JSON body.

    Raises:
        BodyTooLarge, InvalidJson: the body cannot be read.
        InvalidField: the URL is in neither, or differs between the two.
    """
    return _one_address(query, await read_model(request, WorkerAddress))


async def named_workers(request: Request, query: WorkerAddress) -> Named:
    """Find the worker, in the query or in the JSON body, or the workers, in the body.

    Raises:
        BodyTooLarge, InvalidJson: the body cannot be read.
        InvalidField: nothing is named, or in two ways.
    """
    body = await read_model(request, RegisterWorkers, SET_MAX_BYTES)
    if not body.ways:
        labels = None if body.labels is None else pairs(body.labels)
        return Named([Wanted(_one_address(query, body), labels, body.max_concurrency)], several=False)
    ways = [*(["url"] if query.address is not None or body.address is not None else []), *body.ways]
    if len(ways) > 1:
        raise InvalidField(ways[-1], f"{' and '.join(map(repr, ways))} do not go together")
    wanted = _of_set(body)
    if not wanted:
        raise InvalidField(ways[0], f"{ways[0]!r} must name a worker")
    return Named(wanted, several=True)


async def whole_set(request: Request) -> list[Wanted]:
    """Read the workers that there are to be.

    Raises:
        BodyTooLarge, InvalidJson, InvalidField: the body cannot be read, or does not name a set in one way.
    """
    return _of_set(await read_model(request, SwapWorkers, SET_MAX_BYTES))


def _of_set(body: WorkerSet) -> list[Wanted]:
    if body.workers is not None:
        return [
            Wanted(entry.url, None if entry.labels is None else pairs(entry.labels), entry.max_concurrency)
            for entry in body.workers
        ]
    labels = None if body.labels is None else pairs(body.labels)
    return [Wanted(url, labels, body.max_concurrency) for url in body.urls or ()]


def _one_address(query: WorkerAddress, body: WorkerAddress) -> str:
    addresses = {address for address in (query.address, body.address) if address is not None}
    if not addresses:
        raise InvalidField("url", "'url' is required, in the query or in a JSON body")
    if len(addresses) > 1:
        raise InvalidField("url", "'url' names different workers in the query and in the body")
    return addresses.pop()
