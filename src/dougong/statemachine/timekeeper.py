"""Deadlines and definitions: what happens to instances that nobody fires at.

A deadline is a row in the index on (state, due_us): it survives whatever happens to processes. Firing it is an ordinary
event, found and moved in one unit, so that several processes share the work: each takes what is due when its turn
comes, and what somebody moved meanwhile is no longer due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from dougong.clock import Clock
from dougong.errors import DeadlineExceeded, Error, Overloaded, Unavailable
from dougong.statemachine._protocol import Fire, Instance, Key, Outcome, Transition
from dougong.statemachine.deciding import foreign
from dougong.statemachine.firing import Firing
from dougong.statemachine.history import History
from dougong.statemachine.table import MIGRATE
from dougong.store import Store, Tx, in_halves
from dougong.telemetry import counter, gauge, get_logger, histogram, span

__all__ = ["Timekeeper", "TimekeeperSettings"]

K = TypeVar("K", bound=Key)
_log = get_logger("dougong.statemachine")
_overdue = gauge(
    "dougong_statemachine_overdue", "Instances past a deadline at the last scan.", labels=("machine", "state")
)
_late = histogram(
    "dougong_statemachine_deadline_late_seconds",
    "How late deadlines fired.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400),
    labels=("machine",),
)
_postponed = counter(
    "dougong_statemachine_deadlines_postponed_total",
    "Deadlines that could not fire and were put off, by reason.",
    labels=("machine", "event", "code"),
)

OVERDUE_MAX = 10_000
"""The gauge counts no further."""


class TimekeeperSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pace and patience. Seconds."""

    scan_every_s: float = 0.5
    rows_at_once: int = 500
    """Deadlines fired in one unit."""
    retry_s: float = 30.0
    """A deadline whose event was refused by a guard, or failed, is fired again after so long."""
    skew_s: float = 60.0
    """How far clocks of processes may differ. What is due later than a deadline set now, and this, was set by a clock
    that has been moved back since: it begins again, so that it fires late, not years late."""
    sweep_every_s: float = 3600.0
    """How often the whole table is looked through for instances of older definitions; at once after a start."""
    sweep_again_s: float = 60.0
    """The same, after a sweep that found some: older processes may still be writing."""
    sweep_rows: int = 1000
    """Rows looked at in one step."""


Fired = tuple[Instance[K], Outcome[K] | None]
"""An instance that was due, as read, and what its event led to; None when it was only brought forward."""


class Timekeeper(Generic[K]):
    """Two loops for one machine."""

    def __init__(
        self, firing: Firing[K], store: Store, clock: Clock, history: History[K], settings: TimekeeperSettings
    ) -> None:
        self._firing = firing
        self._rows = firing.rows
        self._table = firing.table
        self._name = firing.name
        self._store = store
        self._clock = clock
        self._history = history
        self._settings = settings
        self._retry_us = int(settings.retry_s * 1e6)

    async def fire_deadlines(self) -> None:
        """For ever: fire what is due."""
        await self._for_ever("deadlines", self.scan)

    async def bring_forward(self) -> None:
        """For ever: look the table through for instances that another definition wrote."""
        await self._for_ever("sweep", self.sweep)

    async def scan(self) -> float:
        """Fire all that is due now; how long to pause then."""
        for state in (*self._table.deadlines, *sorted(self._table.former_states())):
            overdue = await self._overdue(state)
            _overdue.set(overdue, self._name, state)
            for _ in range(-(-overdue // self._settings.rows_at_once)):
                if not await self.fire_due(state):
                    break
            if state in self._table.deadlines:
                await self._begin_again(state)
        return self._settings.scan_every_s

    async def fire_due(self, state: str) -> int:
        """One unit of what is due in a state; how many were dealt with."""

        async def unit(tx: Tx) -> list[Fired[K]]:
            now_us = self._clock.now_us()
            return await self._fire(tx, await self._due(tx, state, now_us), now_us)

        with span("statemachine.deadlines", machine=self._name, state=state) as current:
            try:
                fired = await self._store.write(unit)
            except (Unavailable, Overloaded, DeadlineExceeded):
                raise
            except Exception:  # noqa: BLE001 (an action's)
                fired = await self._find_culprits(state)
            current.attributes["items"] = len(fired)
        self._tell(fired)
        return len(fired)

    async def _overdue(self, state: str) -> int:
        now_us = self._clock.now_us()
        return await self._store.read(lambda tx: self._rows.overdue(tx, state, now_us, OVERDUE_MAX))

    async def _due(self, tx: Tx, state: str, now_us: int) -> list[Instance[K]]:
        return await self._rows.due(tx, state, now_us, self._table.version, self._settings.rows_at_once)

    async def _fire(self, tx: Tx, due: Sequence[Instance[K]], now_us: int) -> list[Fired[K]]:
        """Fire the deadlines of instances at the state and version they were read with; put off what cannot fire."""
        fired: list[Fired[K]] = []
        standing: dict[tuple[str, int], list[Instance[K]]] = {}
        old = [row for row in due if row.definition < self._table.version]
        if old:
            forward = {row.key for row in await self._firing.bring_forward(tx, old, now_us)}
            fired += [(row, None if row.key in forward else foreign(self._name, self._table, row)) for row in old]
        for row in due:
            if row.definition == self._table.version:
                standing.setdefault((row.state, row.version), []).append(row)
        for (state, version), rows in standing.items():
            fires = [Fire(row.key, self._event(row)) for row in rows]
            outcomes = await self._firing.fire(tx, fires, now_us, (state, version))
            fired += zip(rows, outcomes, strict=True)
        for row, outcome in fired:
            if isinstance(outcome, Error):
                await self._rows.rearm(tx, row, now_us + self._retry_us)
        return fired

    async def _find_culprits(self, state: str) -> list[Fired[K]]:
        """The same where an action fails: the others fire, the culprits are put off."""
        now_us = self._clock.now_us()
        due = await self._store.read(lambda tx: self._due(tx, state, now_us))

        async def part(rows: Sequence[Instance[K]]) -> list[Fired[K]]:
            return await self._store.write(lambda tx: self._fire(tx, rows, now_us))

        results, culprits = await in_halves(due, part)

        async def put_off(tx: Tx) -> None:
            for row, _ in culprits:
                await self._rows.rearm(tx, row, now_us + self._retry_us)

        if culprits:
            await self._store.write(put_off)
        fired = [one for some in results for one in some]
        return fired + [(row, self._firing.failed(Fire(row.key, self._event(row)), error)) for row, error in culprits]

    async def _begin_again(self, state: str) -> None:
        """Deadlines set by a clock that has been moved back since begin again."""
        now_us = self._clock.now_us()
        due_us = self._table.due_us(state, now_us)
        assert due_us is not None
        horizon_us = due_us + int(self._settings.skew_s * 1e6)

        async def unit(tx: Tx) -> int:
            rows = await self._rows.beyond(tx, state, horizon_us, self._settings.rows_at_once)
            for row in rows:
                await self._rows.rearm(tx, row, due_us)
            return len(rows)

        if await self._store.read(lambda tx: self._rows.beyond(tx, state, horizon_us, 1)):
            begun = await self._store.write(unit)
            _log.warning(
                "deadlines_begun_again", machine=self._name, state=state, count=begun, reason="the clock went back"
            )

    async def sweep(self) -> float:
        """Look the whole table through once, a window at a time; how long to pause then."""
        found, after = 0, None
        while True:
            until, rows = await self._stale_after(after)
            if rows:
                found += await self._bring(rows)
            if until is None:
                break
            after = until
            await asyncio.sleep(0)
        if found:
            _log.info("instances_brought_forward", machine=self._name, count=found, definition=self._table.version)
        return self._settings.sweep_again_s if found else self._settings.sweep_every_s

    async def _stale_after(self, after: K | None) -> tuple[K | None, list[Instance[K]]]:
        timed = sorted(self._table.deadlines)

        async def look(tx: Tx) -> tuple[K | None, list[Instance[K]]]:
            until = await self._rows.window(tx, after, self._settings.sweep_rows)
            return until, await self._rows.stale(tx, after, until, self._table.version, timed)

        return await self._store.read(look)

    async def _bring(self, rows: Sequence[Instance[K]]) -> int:
        lost = [row for row in rows if self._table.migrated(row.state, row.definition) is None]
        if lost:
            _log.error("no_migration", machine=self._name, count=len(lost), first=str(lost[0].key), state=lost[0].state)
        now_us = self._clock.now_us()
        return len(await self._store.write(lambda tx: self._firing.bring_forward(tx, rows, now_us)))

    def _event(self, row: Instance[K]) -> str:
        deadline = self._table.deadlines.get(row.state)
        return deadline[1] if deadline is not None else MIGRATE

    def _tell(self, fired: Sequence[Fired[K]]) -> None:
        now_us = self._clock.now_us()
        for row, outcome in fired:
            if isinstance(outcome, Transition):
                assert row.due_us is not None
                _late.observe(max(0.0, (now_us - row.due_us) / 1e6), self._name)
            elif isinstance(outcome, Error) and outcome.code != "instance_moved":
                _postponed.inc(1, self._name, self._event(row), outcome.code)
                if outcome.code != "guard_refused":
                    _log.error("deadline_postponed", machine=self._name, instance=str(row.key), error=str(outcome))
        if fired:
            self._history.wake()

    async def _for_ever(self, name: str, once: Callable[[], Awaitable[float]]) -> None:
        while True:
            pause_s = self._settings.scan_every_s
            try:
                pause_s = await once()
            except Error as error:
                _log.warning("timekeeping_delayed", loop=name, machine=self._name, error=str(error))
            except Exception:  # noqa: BLE001 (a bug in one round must not end all later ones)
                _log.exception("timekeeping_failed", loop=name, machine=self._name)
            await asyncio.sleep(pause_s)
