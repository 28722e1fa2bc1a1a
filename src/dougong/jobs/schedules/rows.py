"""Schedules and occurrences as rows."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from dougong.store import Tx, fetch_with

__all__ = ["FireCause", "FireDecision", "Occurrence", "OccurrenceRows", "Row", "ScheduleRows"]

FAULT_CHARS_MAX = 500


class FireCause(enum.StrEnum):
    """Who asked for a fire."""

    SCHEDULE = "schedule"
    RUN_NOW = "run_now"
    BACKFILL = "backfill"


class FireDecision(enum.StrEnum):
    """What became of a fire."""

    FIRED = "fired"
    JOINED = "joined"
    """Its job is unique, and one was there."""
    MISSED = "missed"
    """Too late, by the misfire policy."""
    OVERLAPPED = "overlapped"
    """The job of an earlier one was unfinished, or a later one came in its place, by the overlap policy."""


class Row(msgspec.Struct, frozen=True):
    """A schedule as stored."""

    name: str
    declared: int
    enabled: int
    paused_us: int | None
    definition: str
    revision: int
    """Of the definition and of what operators did, not of what fired."""
    next_fire_us: int | None
    last_fire_us: int | None
    high_us: int
    fault: str
    changed_us: int


_ROW = ", ".join(Row.__struct_fields__)


class Occurrence(msgspec.Struct, frozen=True):
    """What became of a fire; of `fires` of them in a row, from `since_us` to `fire_us`, when they did not run."""

    schedule: str
    fire_us: int
    since_us: int
    fires: int
    cause: FireCause
    decision: FireDecision
    jobs: tuple[int, ...]
    """Ids of what was enqueued."""
    decided_us: int
    term: int
    """Of the scheduler that decided; 0 for an operator."""
    busy: bool = False


class ScheduleRows:
    """Statements on `dougong_job_schedules`; each is a part of somebody's unit."""

    async def all(self, tx: Tx) -> list[Row]:
        return [_row(row) for row in await tx.fetch_all(f"SELECT {_ROW} FROM dougong_job_schedules ORDER BY name")]  # noqa: S608 (our own names)

    async def get(self, tx: Tx, name: str) -> Row | None:
        row = await tx.fetch_one(f"SELECT {_ROW} FROM dougong_job_schedules WHERE name = ?", (name,))  # noqa: S608 (our own names)
        return _row(row) if row is not None else None

    async def next_look_us(self, tx: Tx) -> int | None:
        row = await tx.fetch_one("SELECT MIN(look_us) FROM dougong_job_schedules")
        return cast("int | None", row[0]) if row is not None else None

    async def due(self, tx: Tx, now_us: int, limit: int) -> list[Row]:
        """The longest overdue first."""
        rows = await tx.fetch_all(
            f"SELECT {_ROW} FROM dougong_job_schedules WHERE look_us <= ? ORDER BY look_us LIMIT ?",  # noqa: S608 (our own names)
            (now_us, limit),
        )
        return [_row(row) for row in rows]

    async def standing(self, tx: Tx, names: Sequence[str]) -> dict[str, tuple[int, int | None, int]]:
        """Revision, next fire, and latest fire with an occurrence, of those that are there."""
        rows = await fetch_with(
            tx, "SELECT name, revision, next_fire_us, high_us FROM dougong_job_schedules WHERE name IN ({ids})", names
        )
        return {
            cast(str, name): (cast(int, revision), cast("int | None", next_us), cast(int, high_us))
            for name, revision, next_us, high_us in rows
        }

    async def insert(self, tx: Tx, rows: Iterable[Row]) -> None:
        await tx.execute_many(
            f"INSERT INTO dougong_job_schedules ({_ROW}, look_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our own names)
            [(*msgspec.structs.astuple(row), row.next_fire_us) for row in rows],
        )

    async def update(self, tx: Tx, rows: Iterable[Row], now_us: int) -> None:
        """All but what fired, one revision on. It is looked at at its next fire, if it is to fire at all."""
        await tx.execute_many(
            "UPDATE dougong_job_schedules SET declared = ?, enabled = ?, paused_us = ?, definition = ?, "
            "revision = revision + 1, next_fire_us = ?, look_us = ?, fault = '', changed_us = ? WHERE name = ?",
            [
                (
                    row.declared,
                    row.enabled,
                    row.paused_us,
                    row.definition,
                    row.next_fire_us,
                    row.next_fire_us,
                    now_us,
                    row.name,
                )
                for row in rows
            ],
        )

    async def advance(self, tx: Tx, fired: Iterable[tuple[str, int | None, int | None, int]]) -> None:
        """(name, next fire, last fire, latest with an occurrence)."""
        await tx.execute_many(
            "UPDATE dougong_job_schedules SET next_fire_us = ?, look_us = ?, last_fire_us = ?, high_us = ?, fault = '' "
            "WHERE name = ?",
            [(next_us, next_us, last_us, high_us, name) for name, next_us, last_us, high_us in fired],
        )

    async def put_off(self, tx: Tx, faults: Iterable[tuple[str, str]], look_us: int) -> None:
        """(name, what is wrong): their fires stay due, and are tried again then."""
        await tx.execute_many(
            "UPDATE dougong_job_schedules SET look_us = ?, fault = ? WHERE name = ? AND look_us IS NOT NULL",
            [(look_us, fault[:FAULT_CHARS_MAX], name) for name, fault in faults],
        )

    async def raise_high(self, tx: Tx, name: str, high_us: int) -> None:
        await tx.execute(
            "UPDATE dougong_job_schedules SET high_us = ? WHERE name = ? AND high_us < ?", (high_us, name, high_us)
        )

    async def delete(self, tx: Tx, name: str) -> None:
        await tx.execute("DELETE FROM dougong_job_occurrences WHERE schedule = ?", (name,))
        await tx.execute("DELETE FROM dougong_job_schedules WHERE name = ?", (name,))


_OCCURRENCE = "schedule, fire_us, since_us, fires, cause, decision, jobs, decided_us, term"


class OccurrenceRows:
    """Statements on `dougong_job_occurrences`."""

    async def insert(self, tx: Tx, occurrences: Iterable[Occurrence]) -> None:
        """Fails, and with it the whole unit, where a fire has one: the last line against firing twice."""
        await tx.execute_many(
            f"INSERT INTO dougong_job_occurrences ({_OCCURRENCE}, busy) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our own names)
            [
                (
                    one.schedule,
                    one.fire_us,
                    one.since_us,
                    one.fires,
                    one.cause.value,
                    one.decision.value,
                    msgspec.json.encode(one.jobs).decode(),
                    one.decided_us,
                    one.term,
                    one.schedule if one.busy else None,
                )
                for one in occurrences
            ],
        )

    async def within(self, tx: Tx, schedule: str, from_us: int, until_us: int) -> dict[int, FireDecision]:
        """Fires that have an occurrence, both ends included."""
        rows = await tx.fetch_all(
            "SELECT fire_us, decision FROM dougong_job_occurrences WHERE schedule = ? AND fire_us >= ? "
            "AND fire_us <= ?",
            (schedule, from_us, until_us),
        )
        return {cast(int, fire_us): FireDecision(cast(str, decision)) for fire_us, decision in rows}

    async def page(self, tx: Tx, schedule: str, before_us: int, limit: int) -> list[Occurrence]:
        """Latest first."""
        rows = await tx.fetch_all(
            f"SELECT {_OCCURRENCE}, busy FROM dougong_job_occurrences WHERE schedule = ? AND fire_us < ? "  # noqa: S608 (our own names)
            f"ORDER BY fire_us DESC LIMIT ?",
            (schedule, before_us, limit),
        )
        return [_occurrence(row) for row in rows]

    async def busy(self, tx: Tx, schedules: Sequence[str]) -> list[tuple[str, int, list[int]]]:
        """(schedule, fire, jobs) of those whose jobs may be unfinished."""
        rows = await fetch_with(
            tx, "SELECT schedule, fire_us, jobs FROM dougong_job_occurrences WHERE busy IN ({ids})", schedules
        )
        return [
            (cast(str, schedule), cast(int, fire_us), msgspec.json.decode(cast(str, jobs), type=list[int]))
            for schedule, fire_us, jobs in rows
        ]

    async def finished(self, tx: Tx, fires: Iterable[tuple[str, int]]) -> None:
        await tx.execute_many(
            "UPDATE dougong_job_occurrences SET busy = NULL WHERE schedule = ? AND fire_us = ?", list(fires)
        )

    async def drop(self, tx: Tx, schedule: str, fires: Iterable[int]) -> None:
        rows = [(schedule, fire_us) for fire_us in fires]
        if rows:
            await tx.execute_many("DELETE FROM dougong_job_occurrences WHERE schedule = ? AND fire_us = ?", rows)

    async def sweep(self, tx: Tx, before_us: int, limit: int) -> int:
        """Forget old ones, except while their jobs may be unfinished; how many."""
        rows = await tx.fetch_all(
            "SELECT schedule, fire_us FROM dougong_job_occurrences WHERE decided_us < ? AND busy IS NULL "
            "ORDER BY decided_us LIMIT ?",
            (before_us, limit),
        )
        if rows:
            await tx.execute_many("DELETE FROM dougong_job_occurrences WHERE schedule = ? AND fire_us = ?", rows)
        return len(rows)


def _row(row: Sequence[object]) -> Row:
    return Row(*row)  # type: ignore[arg-type]


def _occurrence(row: Sequence[object]) -> Occurrence:
    schedule, fire_us, since_us, fires, cause, decision, jobs, decided_us, term, busy = row
    return Occurrence(
        cast(str, schedule),
        cast(int, fire_us),
        cast(int, since_us),
        cast(int, fires),
        FireCause(cast(str, cause)),
        FireDecision(cast(str, decision)),
        msgspec.json.decode(cast(str, jobs), type=tuple[int, ...]),
        cast(int, decided_us),
        cast(int, term),
        busy is not None,
    )
