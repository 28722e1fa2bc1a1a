"""Events at rows, inside a unit: the one path that every transition takes, whoever fires it.

Everything is a batch. The common case, many instances that go the same way, costs a handful of statements however many
they are; what each instance costs on top is a few list operations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar, cast

from dougong.errors import Conflict, Error, Internal, Invalid
from dougong.statemachine._protocol import Fire, Instance, Key, Outcome, Transition
from dougong.statemachine.deciding import Group, Guard, decide, repeated
from dougong.statemachine.event_data import encoded
from dougong.statemachine.history import HistoryTable
from dougong.statemachine.migrating import brought_forward
from dougong.statemachine.rows import Rows
from dougong.statemachine.table import MIGRATE, Table
from dougong.store import Tx
from dougong.telemetry import counter, get_logger

__all__ = ["Action", "Firing"]

K = TypeVar("K", bound=Key)
Action = Callable[[Tx, Sequence[Transition[K]]], Awaitable[None]]
_log = get_logger("dougong.statemachine")
_fired = counter(
    "dougong_statemachine_events_total",
    "Events fired, by what became of them. A unit that runs again counts again.",
    labels=("machine", "event", "outcome"),
)

FIRES_MAX = 10_000
"""Events in one call."""
ROUNDS_MAX = 100
"""Events for one instance in one call: each has to see what the one before led to."""
ID_CHARS_MAX = 128
KEY_CHARS_MAX = 191
"""What every engine can index."""
ATTEMPTS_MAX = 5
"""How often one call goes after instances that others keep moving."""
_INT_MAX = (1 << 63) - 1
_FROM_ROWS_MIN = 4
"""From so many instances on it is cheaper to have their history written from the rows themselves."""


class Firing(Generic[K]):
    """A machine without a store or a clock. Methods run inside a unit; nothing is remembered between units."""

    def __init__(
        self,
        name: str,
        key_type: type,
        table: Table,
        rows: Rows[K],
        history: HistoryTable[K],
        guards: Mapping[str, Guard[K]],
        actions: Mapping[str, Action[K]],
    ) -> None:
        self.name = name
        self.table = table
        self.rows = rows
        self.history = history
        self._key_type = key_type
        self._guards = guards
        self._actions = actions

    async def fire(
        self, tx: Tx, fires: Sequence[Fire[K]], now_us: int, expecting: tuple[str, int] | None = None
    ) -> list[Outcome[K]]:
        """One outcome per event, in order; see `Machine.fire`."""
        self.check_size(fires)
        outcomes: list[Outcome[K] | None] = [None] * len(fires)
        left, done = self._checked(fires, outcomes), 0
        for _ in range(ROUNDS_MAX):
            if not left:
                break
            now, left = _each_once(fires, left)
            done += await self._fire_once(tx, fires, now, outcomes, expecting, now_us)
        for place in left:
            outcomes[place] = Invalid(
                f"over {ROUNDS_MAX} events for {self.name} {fires[place].instance!r} in one call; send them in several",
                code="too_many_events",
            )
        if done < len(fires):
            self._count_refused(fires, outcomes)
        return cast("list[Outcome[K]]", outcomes)

    def check_size(self, fires: Sequence[Fire[K]]) -> None:
        """Refuse a batch that would hold the loop for too long."""
        if len(fires) > FIRES_MAX:
            raise Invalid(f"{len(fires)} events in one call; send {FIRES_MAX:,} at most", code="too_many_events")

    async def _fire_once(
        self,
        tx: Tx,
        fires: Sequence[Fire[K]],
        places: Sequence[int],
        outcomes: list[Outcome[K] | None],
        expecting: tuple[str, int] | None,
        now_us: int,
    ) -> int:
        """Fire at instances that all differ; how many were moved."""
        groups = self._straight(fires, places, expecting)
        if groups is None or (expecting is not None and expecting[1] > 0):  # nothing ever happened to a new instance
            places = await self._unless_repeated(tx, fires, places, outcomes)
            groups = groups and self._straight(fires, places, expecting)
        done: list[tuple[Group[K], list[int]]] = []
        for _ in range(ATTEMPTS_MAX):
            if not places:
                break
            if groups is None:
                rows = await self._current(tx, [fires[place].instance for place in places], now_us)
                groups = decide(self.name, self.table, self._guards, fires, places, rows, outcomes, expecting)
            places = []
            for group in groups:
                taken, lost = await self._take(tx, fires, group, now_us)
                done.append((group, taken))
                places += lost
            groups = None
            places = await self._unless_repeated(tx, fires, places, outcomes)
        for place in places:
            outcomes[place] = Conflict(
                f"others keep moving {self.name} {fires[place].instance!r}; fire again", code="contended"
            )
        await self._record(tx, fires, done, outcomes, now_us)
        return sum(len(taken) for _, taken in done)

    def _straight(
        self, fires: Sequence[Fire[K]], places: Sequence[int], expecting: tuple[str, int] | None
    ) -> list[Group[K]] | None:
        """What to write without reading; None when rows have to be seen first."""
        if expecting is None or not places:
            return None if places else []
        event = fires[places[0]].event
        ways = self.table.moves.get(expecting[0], {}).get(event, ())
        if not ways or ways[0].guard or not all([fires[place].event == event for place in places]):  # noqa: C419 (quicker)
            return None
        return [Group((*expecting, self.table.version), ways[0], list(places))]

    async def _take(
        self, tx: Tx, fires: Sequence[Fire[K]], group: Group[K], now_us: int
    ) -> tuple[list[int], list[int]]:
        """Move a group: the places that were moved, and those whose instance was not where it was expected."""
        keys = [fires[place].instance for place in group.places]
        target = group.move.target
        due_us = self.table.due_us(target, now_us)
        changed = await self.rows.move(tx, keys, group.expected, target, due_us, now_us)
        if changed == len(keys):
            return group.places, []
        if not changed:
            return [], group.places
        # Who else stands there now was moved by us, unless the history has that transition already.
        version = group.expected[1] + 1
        rows = await self.rows.read(tx, keys)
        ours = {key for key, row in rows.items() if (row.state, row.version) == (target, version)}
        if len(ours) > changed:
            ours -= await self.history.having(tx, list(ours), version)
        if len(ours) != changed:
            raise Conflict(
                f"{len(keys)} instances of {self.name} were expected in {group.expected[0]!r}, {changed} were, and "
                f"their history was forgotten; fire without `expecting`",
                code="history_forgotten",
            )
        taken = [place for place in group.places if fires[place].instance in ours]
        return taken, [place for place in group.places if fires[place].instance not in ours]

    async def _record(
        self,
        tx: Tx,
        fires: Sequence[Fire[K]],
        done: Sequence[tuple[Group[K], list[int]]],
        outcomes: list[Outcome[K] | None],
        now_us: int,
    ) -> None:
        """Write the history of what was moved, then run the actions that go with it."""
        one_by_one: list[Transition[K]] = []
        actions: dict[str, list[Transition[K]]] = {}
        for group, places in done:
            if not places:
                continue
            (source, before, _), move = group.expected, group.move
            version, event, target = before + 1, move.event, move.target
            transitions: list[Transition[K]] = []
            bare = True
            for place in places:
                fire = fires[place]
                if fire.id is None and fire.data is None:
                    made: Transition[K] = Transition(fire.instance, version, source, event, target, now_us)
                else:
                    bare = False
                    made = Transition(fire.instance, version, source, event, target, now_us, fire.id, fire.data)
                outcomes[place] = made
                transitions.append(made)
            _fired.inc(len(places), self.name, event, "done")
            if bare and len(places) >= _FROM_ROWS_MIN:
                keys = [t.instance for t in transitions]
                await self.history.append_moved(tx, self.rows, keys, group.expected, event, target, now_us)
            else:
                one_by_one += transitions
            if move.action:
                actions.setdefault(move.action, []).extend(transitions)
        if one_by_one:
            await self.history.append(tx, one_by_one)
        for name, transitions in actions.items():
            await self._actions[name](tx, transitions)

    async def _current(self, tx: Tx, keys: Sequence[K], now_us: int) -> dict[K, Instance[K]]:
        """The instances as they stand, older ones brought under this definition."""
        rows = await self.rows.read(tx, keys)
        old = [row for row in rows.values() if row.definition < self.table.version]
        if old:
            for row in await self.bring_forward(tx, old, now_us):
                rows[row.key] = row
        return rows

    async def bring_forward(self, tx: Tx, rows: Sequence[Instance[K]], now_us: int) -> list[Instance[K]]:
        """Write instances under this definition; those that were."""
        renamed: list[Transition[K]] = []
        forward: list[Instance[K]] = []
        for row in rows:
            new = brought_forward(self.table, row, now_us)
            if new is None or not await self.rows.rewrite(tx, row, new):
                continue
            forward.append(new)
            if new.version != row.version:
                renamed.append(Transition(row.key, new.version, row.state, MIGRATE, new.state, now_us))
        if renamed:
            await self.history.append(tx, renamed)
        return forward

    async def _unless_repeated(
        self, tx: Tx, fires: Sequence[Fire[K]], places: Sequence[int], outcomes: list[Outcome[K] | None]
    ) -> Sequence[int]:
        """The places whose event id is new; the others get the recorded outcome."""
        ids = [id_ for place in places if (id_ := fires[place].id) is not None]
        if not ids:
            return places
        known = await self.history.find(tx, ids)
        if not known:
            return places
        new: list[int] = []
        for place in places:
            fire = fires[place]
            recorded = known.get((fire.instance, fire.id)) if fire.id is not None else None
            if recorded is None:
                new.append(place)
            else:
                outcomes[place] = repeated(self.name, fire, recorded)
                if isinstance(outcomes[place], Transition):
                    _fired.inc(1, self.name, fire.event, "repeated")
        return new

    def _checked(self, fires: Sequence[Fire[K]], outcomes: list[Outcome[K] | None]) -> Sequence[int]:
        """The places that can be fired at all; the others get their outcome."""
        events, key_type = self.table.events, self._key_type
        good: list[int] = []
        for place, fire in enumerate(fires):
            if (
                fire.event in events
                and type(fire.instance) is key_type
                and _is_key(fire.instance)
                and fire.id is None
                and fire.data is None
            ):
                good.append(place)
                continue
            problem = self._problem(fire)
            if problem is None:
                good.append(place)
            else:
                outcomes[place] = problem
        return good

    def _problem(self, fire: Fire[K]) -> Invalid | None:
        """What no database could take, or no table could know: it must not make a whole batch fail."""
        key = fire.instance
        if fire.event not in self.table.events:
            known = ", ".join(sorted(self.table.events))
            return Invalid(f"{self.name} knows no event {fire.event!r}; it knows {known}", code="unknown_event")
        if type(key) is not self._key_type:
            return Invalid(
                f"instances of {self.name} are named by {self._key_type.__name__}, not {key!r}", code="bad_key"
            )
        if not _is_key(key):
            return Invalid(
                f"{str(key)[:80]!r} is no key of {self.name}: integers of 64 bits, or text of 1 to {KEY_CHARS_MAX} "
                f"printable characters",
                code="bad_key",
            )
        if fire.id is not None and not _is_text(fire.id, ID_CHARS_MAX):
            return Invalid(
                f"{fire.id[:80]!r} is no event id: 1 to {ID_CHARS_MAX} printable characters", code="bad_event_id"
            )
        try:
            encoded(fire.data)
        except Invalid as error:
            return error
        return None

    def _count_refused(self, fires: Sequence[Fire[K]], outcomes: Sequence[Outcome[K] | None]) -> None:
        for fire, outcome in zip(fires, outcomes, strict=True):
            if isinstance(outcome, Error):
                event = fire.event if fire.event in self.table.events else "unknown"
                _fired.inc(1, self.name, event, outcome.code)

    def failed(self, fire: Fire[K], error: Exception) -> Error:
        if isinstance(error, Error):
            return error
        _log.error("action_failed", machine=self.name, instance=fire.instance, fired=fire.event, exc_info=error)
        return Internal(
            f"an action of {self.name} failed for {fire.instance!r} at {fire.event!r}; the log has the reason",
            code="action_failed",
            machine=self.name,
            event=fire.event,
        )


def _each_once(fires: Sequence[Fire[K]], places: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The first place of each instance, and the rest: a second event has to see what the first one led to."""
    if len({fires[place].instance for place in places}) == len(places):
        return places, ()
    seen: set[K] = set()
    first: list[int] = []
    rest: list[int] = []
    for place in places:
        (rest if fires[place].instance in seen else first).append(place)
        seen.add(fires[place].instance)
    return first, rest


def _is_key(key: Key) -> bool:
    return -_INT_MAX <= key <= _INT_MAX if isinstance(key, int) else _is_text(key, KEY_CHARS_MAX)


def _is_text(text: str, chars_max: int) -> bool:
    """What every engine takes, and tells apart: to some of them spaces at the end are nothing."""
    return 0 < len(text) <= chars_max and text.isprintable() and text[0] != " " != text[-1]
