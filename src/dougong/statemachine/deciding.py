"""What a batch of events does to instances as they stand: pure, so that every case can be tried by the thousand.

At most one event per instance and batch: a second one has to see what the first one's action wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from dougong.errors import Conflict, Error, Internal, Unavailable
from dougong.statemachine._protocol import Fire, IllegalTransition, Instance, Key, Outcome, Transition, UnknownInstance
from dougong.statemachine.event_data import encoded
from dougong.statemachine.table import Move, Table
from dougong.telemetry import get_logger

__all__ = ["Group", "Guard", "decide", "foreign", "illegal", "moved", "repeated", "unknown"]

K = TypeVar("K", bound=Key)
_log = get_logger("dougong.statemachine")

Guard = Callable[[Instance[K], object], bool]


class Group(msgspec.Struct, Generic[K], frozen=True):
    """Events that take instances the same way from the same place: one statement."""

    expected: tuple[str, int, int]
    """(state, version, definition)."""
    move: Move
    places: list[int]
    """Where in the batch they stand."""


def decide(
    name: str,
    table: Table,
    guards: Mapping[str, Guard[K]],
    fires: Sequence[Fire[K]],
    places: Sequence[int],
    rows: Mapping[K, Instance[K]],
    outcomes: list[Outcome[K] | None],
    expecting: tuple[str, int] | None = None,
) -> list[Group[K]]:
    """What to write for the fires at `places`; those that change nothing get their outcome here."""
    groups: dict[tuple[tuple[str, int, int], int], Group[K]] = {}
    for place in places:
        fire = fires[place]
        row = rows.get(fire.instance)
        if row is None:
            outcomes[place] = unknown(name, fire)
        elif row.definition != table.version or row.state not in table.moves:
            outcomes[place] = foreign(name, table, row)
        elif expecting is not None and (row.state, row.version) != expecting:
            outcomes[place] = moved(name, fire, row, expecting)
        else:
            chosen = _choose(name, table, guards, fire, row)
            if isinstance(chosen, Error):
                outcomes[place] = chosen
                continue
            expected = (row.state, row.version, row.definition)
            group = groups.get((expected, id(chosen)))
            if group is None:
                groups[expected, id(chosen)] = Group(expected, chosen, [place])
            else:
                group.places.append(place)
    return list(groups.values())


def _choose(name: str, table: Table, guards: Mapping[str, Guard[K]], fire: Fire[K], row: Instance[K]) -> Move | Error:
    ways = table.ways(row.state, fire.event)
    for move in ways:
        if not move.guard:
            return move
        try:
            if guards[move.guard](row, fire.data):
                return move
        except Exception:  # noqa: BLE001 (a bad item never hurts its neighbours)
            _log.exception("guard_failed", machine=name, instance=row.key, guard=move.guard)
            return Internal(
                f"guard {move.guard} of {name} failed for {row.key!r} at {fire.event!r}; the log has the reason",
                code="guard_failed",
            )
    return illegal(name, table, fire, row, [move.guard for move in ways])


def repeated(name: str, fire: Fire[K], known: Transition[K]) -> Outcome[K]:
    """What an event id that was used before gives: the recorded transition, if it is the same event."""
    if fire.event == known.event and encoded(fire.data) == encoded(known.data):
        return msgspec.structs.replace(known, repeated=True)
    what = "with other data" if fire.event == known.event else f"for {known.event!r}"
    return Conflict(
        f"event id {fire.id!r} of {name} {fire.instance!r} was used before {what}; a new event needs a new id",
        code="event_id_reused",
        machine=name,
        instance=fire.instance,
        event=fire.event,
    )


def illegal(
    name: str, table: Table, fire: Fire[K], row: Instance[K], refused_by: Sequence[str] = ()
) -> IllegalTransition:
    """The event cannot happen where the instance stands."""
    legal = table.legal(row.state)
    if refused_by:
        why, code = f"is refused by {' and '.join(refused_by)}", "guard_refused"
    elif row.state in table.finals:
        why, code = "is illegal: the state is final", "illegal_transition"
    else:
        why, code = f"is illegal; legal are {', '.join(legal)}", "illegal_transition"
    return IllegalTransition(
        f"{name} {fire.instance!r} is {row.state!r}, where {fire.event!r} {why}",
        code=code,
        machine=name,
        instance=fire.instance,
        state=row.state,
        event=fire.event,
        legal=" ".join(legal),
    )


def unknown(name: str, fire: Fire[K]) -> UnknownInstance:
    """There is no row."""
    return UnknownInstance(
        f"there is no {name} {fire.instance!r}", code="unknown_instance", machine=name, instance=fire.instance
    )


def moved(name: str, fire: Fire[K], row: Instance[K], expected: tuple[str, int]) -> Conflict:
    """The compare-and-set was lost."""
    return Conflict(
        f"{name} {fire.instance!r} is {row.state!r} (version {row.version}), no longer {expected[0]!r} (version "
        f"{expected[1]}); read it again and decide",
        code="instance_moved",
        machine=name,
        instance=fire.instance,
        state=row.state,
        version=row.version,
        event=fire.event,
    )


def foreign(name: str, table: Table, row: Instance[K]) -> Error:
    """A row of a definition this program cannot read."""
    if row.definition > table.version:
        return Unavailable(
            f"{name} {row.key!r} was written under definition {row.definition}, newer than {table.version}, the one "
            f"here; a process with the newer program can serve it",
            code="newer_definition",
            machine=name,
            instance=row.key,
            definition=row.definition,
        )
    if row.definition == table.version:
        return Internal(
            f"{name} {row.key!r} is {row.state!r}, which is no state of definition {table.version}; whoever wrote it "
            f"there must put it right",
            code="unknown_state",
            machine=name,
            instance=row.key,
            state=row.state,
        )
    return Internal(
        f"{name} {row.key!r} is {row.state!r} of definition {row.definition}, and no migration of version "
        f"{table.version} says what that is now; add one",
        code="no_migration",
        machine=name,
        instance=row.key,
        state=row.state,
        definition=row.definition,
    )
