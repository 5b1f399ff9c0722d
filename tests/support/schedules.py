"""Play the schedules of these seeds: `python -m support.schedules SEED ... [--unfenced]`."""

import argparse
import asyncio
import sys
from collections.abc import Iterable

from support.nursery import Nursery
from support.play import Report, play
from support.schedule import drawn
from support.trainer import write_checkpoints

SIDE_BY_SIDE = 5


async def play_all(nursery: Nursery, seeds: Iterable[int], program: str = "router") -> list[Report]:
    """Play schedules, some side by side."""
    checkpoints = write_checkpoints(nursery.new_folder())
    turn = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(seed: int) -> Report:
        async with turn:
            return await play(nursery, checkpoints, drawn(seed), program)

    return await asyncio.gather(*map(one, seeds))


def main() -> int:
    """Play what the command line names; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--unfenced", action="store_true", help="with the router that takes every worker for current")
    arguments = parser.parse_args()
    with Nursery() as nursery:
        reports = asyncio.run(play_all(nursery, arguments.seeds, "unfenced" if arguments.unfenced else "router"))
    for report in reports:
        print(report)  # noqa: T201
    return int(any(report.faults for report in reports))


if __name__ == "__main__":
    sys.exit(main())
