"""What becomes of the stored schedules when an app starts with its own: pure, on rows as read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from dougong.errors import Error, Invalid
from dougong.jobs.schedules.declare import Schedule, decode, encode
from dougong.jobs.schedules.rows import Row
from dougong.jobs.schedules.times import At, Cron

__all__ = ["Sync", "added", "by_name", "changed", "resumed", "sync"]


class Sync(msgspec.Struct, frozen=True):
    """Rows to insert, and rows to update."""

    new: list[Row] = []
    changed: list[Row] = []
    """Declared otherwise than before, or again."""
    gone: list[Row] = []
    """No longer declared: disabled, and kept to be seen."""


def by_name(schedules: Iterable[Schedule]) -> dict[str, Schedule]:
    """Raises `Invalid` (`schedule_twice`)."""
    found: dict[str, Schedule] = {}
    for schedule in schedules:
        if schedule.name in found:
            raise Invalid(
                f"schedule {schedule.name!r} is declared twice", code="schedule_twice", schedule=schedule.name
            )
        found[schedule.name] = schedule
    return found


def sync(rows: Iterable[Row], declared: Mapping[str, Schedule], now_us: int) -> Sync:
    """An operator's pause survives; so does what the next fire is, unless it is declared for other times, or its zone
    has other rules than when it was computed.
    """
    result = Sync([], [], [])
    stored = {row.name: row for row in rows}
    for name, schedule in declared.items():
        row = stored.get(name)
        if row is None:
            result.new.append(added(schedule, now_us, declared=True))
        elif not (row.declared and row.enabled) or row.definition != encode(schedule):
            result.changed.append(changed(row, schedule, now_us))
        elif _zone_changed(row, schedule, now_us):
            result.changed.append(resumed(row, schedule, now_us))
    for name, row in stored.items():
        if row.declared and row.enabled and name not in declared:
            result.gone.append(msgspec.structs.replace(row, enabled=0, next_fire_us=None))
    return result


def added(schedule: Schedule, now_us: int, *, declared: bool) -> Row:
    """A schedule that was not there. A time of `At` that has passed is a misfire, not forgotten."""
    passed = isinstance(schedule.when, At) and schedule.when.at_us <= now_us
    next_us = schedule.after_us(-1 if passed else now_us)
    return Row(schedule.name, int(declared), 1, None, encode(schedule), 1, next_us, None, 0, "", now_us)


def changed(row: Row, schedule: Schedule, now_us: int) -> Row:
    """The same schedule, declared anew."""
    fresh = msgspec.structs.replace(row, declared=1, enabled=1, definition=encode(schedule))
    if row.paused_us is None and row.enabled and _same_times(row, schedule):
        return fresh
    if row.paused_us is not None:
        return msgspec.structs.replace(fresh, next_fire_us=None)
    return resumed(fresh, schedule, now_us)


def resumed(row: Row, schedule: Schedule, now_us: int) -> Row:
    """From now on. What it would have fired meanwhile is not made up for (there is `backfill`), except that a single
    time that never fired still does.
    """
    owed = isinstance(schedule.when, At) and row.last_fire_us is None and row.high_us < schedule.when.at_us <= now_us
    return msgspec.structs.replace(row, paused_us=None, next_fire_us=schedule.after_us(-1 if owed else now_us))


def _zone_changed(row: Row, schedule: Schedule, now_us: int) -> bool:
    """Whether what comes next was computed with other rules of its zone than are known by now."""
    to_come = row.paused_us is None and row.next_fire_us is not None and row.next_fire_us > now_us
    in_zone = isinstance(schedule.when, Cron) and schedule.when.zone != "UTC"
    return to_come and in_zone and schedule.after_us(now_us) != row.next_fire_us


def _same_times(row: Row, schedule: Schedule) -> bool:
    try:
        return decode(row.definition).same_times(schedule)
    except Error:
        return False
