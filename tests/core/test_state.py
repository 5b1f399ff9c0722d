"""The table of moves against an independent reading of it."""

import itertools

import pytest

from sglang_diffusion_routing.core.state import INTENT_OF, TABLE, Effect, Fate, Intent, Move, Trigger, WorkerState

pytestmark = pytest.mark.core

# Rows are phases, columns are triggers. A cell gives the next phase ("=" for the same) and the fate; "." is a conflict.
ASKED = """
phase           | hold         | refit         | sleep         | remove         | force remove | wake
active          | d.hold:begun | d.refit:begun | d.sleep:begun | d.remove:begun | removed:done | =:done
draining.hold   | =:joined     | d.refit:begun | d.sleep:begun | d.remove:begun | removed:done | active:done
draining.refit  | .            | =:joined      | d.sleep:begun | d.remove:begun | removed:done | active:done
draining.sleep  | .            | .             | =:joined      | d.remove:begun | removed:done | active:done
draining.remove | .            | .             | .             | =:joined       | removed:done | active:done
updating        | =:waits      | =:joined      | =:waits       | =:waits        | removed:done | =:waits
releasing       | =:waits      | =:waits       | =:joined      | =:waits        | removed:done | =:waits
sleeping        | .            | .             | =:done        | removed:done   | removed:done | resuming:begun
resuming        | =:waits      | =:waits       | =:waits       | =:waits        | removed:done | =:joined
removed         | .            | .             | .             | .              | .            | .
"""
REFIT_NOW = """
phase           | refit now
active          | updating:begun
draining.hold   | updating:begun
draining.refit  | updating:begun
draining.sleep  | .
draining.remove | .
updating        | =:joined
releasing       | =:waits
sleeping        | .
resuming        | =:waits
removed         | .
"""
HAPPENED = """
phase           | drained        | drain expired  | found asleep  | found awake
active          | .              | .              | sleeping:kept | .
draining.hold   | =:done         | active:expired | =:kept        | .
draining.refit  | updating:kept  | active:expired | =:kept        | .
draining.sleep  | releasing:kept | active:expired | =:kept        | .
draining.remove | removed:done   | removed:done   | =:kept        | .
updating        | .              | .              | =:kept        | .
releasing       | .              | .              | =:kept        | .
sleeping        | .              | .              | =:kept        | releasing:begun
resuming        | .              | .              | =:kept        | .
removed         | .              | .              | .             | .
"""
ENDED = """
phase           | succeeded     | refused          | lost
active          | .             | .                | .
draining.hold   | .             | .                | .
draining.refit  | .             | .                | .
draining.sleep  | .             | .                | .
draining.remove | .             | .                | .
updating        | active:done   | active:refused   | active:lost
releasing       | sleeping:done | active:refused   | sleeping:lost
sleeping        | .             | .                | .
resuming        | active:done   | sleeping:refused | sleeping:lost
removed         | .             | .                | .
"""

Phase = tuple[WorkerState, Intent | None]


def phase(text: str) -> Phase:
    state, _, intent = text.partition(".")
    return WorkerState("draining" if state == "d" else state), Intent[intent.upper()] if intent else None


def cells(grid: str) -> dict[tuple[Phase, Trigger], tuple[Phase, Fate] | None]:
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in grid.strip().splitlines()]
    triggers = [Trigger(name) for name in head[1:]]
    read: dict[tuple[Phase, Trigger], tuple[Phase, Fate] | None] = {}
    for name, *row in rows:
        for trigger, cell in zip(triggers, row, strict=True):
            target, _, fate = cell.partition(":")
            read[phase(name), trigger] = None if cell == "." else (phase(name if target == "=" else target), Fate(fate))
    return read


CELLS = cells(ASKED) | cells(REFIT_NOW) | cells(HAPPENED) | cells(ENDED)


def test_the_grids_have_a_cell_for_every_phase_and_every_trigger() -> None:
    assert set(CELLS) == set(itertools.product(TABLE, Trigger))


@pytest.mark.parametrize(("at", "trigger"), CELLS)
def test_each_pair_moves_as_written_or_not_at_all(at: Phase, trigger: Trigger) -> None:
    move = TABLE[at].get(trigger)
    assert (None if move is None else ((move.state, move.intent), move.fate)) == CELLS[at, trigger]


def test_only_draining_has_an_intent() -> None:
    moves = [move for row in TABLE.values() for move in row.values()]
    assert all((move.intent is not None) == (move.state is WorkerState.DRAINING) for move in moves)


def test_a_remote_command_is_sent_on_entering_its_state_and_nowhere_else() -> None:
    command_of = {
        WorkerState.UPDATING: Effect.UPDATE_WEIGHTS,
        WorkerState.RELEASING: Effect.RELEASE_MEMORY,
        WorkerState.RESUMING: Effect.RESUME_MEMORY,
    }
    for (state, _), row in TABLE.items():
        for move in row.values():
            sent = set(move.effects) & set(command_of.values())
            entered = {command_of[move.state]} if move.state in command_of and move.state is not state else set()
            assert sent == entered


def test_what_was_lost_is_quarantined() -> None:
    lost = [row[Trigger.LOST] for row in TABLE.values() if Trigger.LOST in row]
    assert len(lost) == 3
    assert all(move.effects == (Effect.QUARANTINE,) for move in lost)


def test_whoever_is_removed_before_its_work_has_ended_has_its_leases_cancelled() -> None:
    into = [(at, trigger, move) for at, row in TABLE.items() for trigger, move in row.items()]
    removals = [(trigger, move) for _, trigger, move in into if move.state is WorkerState.REMOVED]
    assert all((Effect.CANCEL_LEASES in move.effects) == (trigger is not Trigger.DRAINED) for trigger, move in removals)


def test_a_move_says_nothing_that_it_need_not() -> None:
    assert Move(WorkerState.ACTIVE, Fate.DONE) == Move(WorkerState.ACTIVE, Fate.DONE, None, ())


def test_a_stronger_intent_is_a_larger_one() -> None:
    assert sorted(set(INTENT_OF.values())) == [Intent.HOLD, Intent.REFIT, Intent.SLEEP, Intent.REMOVE]
    assert INTENT_OF[Trigger.REFIT_NOW] is INTENT_OF[Trigger.REFIT]
