"""Where the wall clock jumps: which instants a time on the wall means, in a zone, under a policy.

A zone is a row of segments of constant offset. Inside one, instants and wall times are the same thing; between two, the
wall clock skips some times (a *gap*) or shows some again (a *fold*). Walking segments instead of converting single
times is what makes "never back, never twice, none lost" easy to see, for half an hour (Lord Howe) as for a day (Samoa).

| policy | a time in a gap | a time in a fold |
| --- | --- | --- |
| `skip` | not at all | the first time |
| `once` | once, when the gap ends | the first time |
| `twice` | once, when the gap ends | both times |

Cron text with a star as minute or hour counts hours as they pass: in a gap none is there, in a fold all are, whatever
the policy. So `0 * * * *` runs every hour in spring and in autumn. This is Debian's rule, cron(8).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from dougong.errors import Invalid
from dougong.jobs.schedules.cron import CronText

__all__ = ["Change", "Dst", "Walk", "fire_after", "note", "offset_s", "zone_info"]

_PROBE_S = 12 * 3600
"""No zone has ever changed there and back within so long."""
_FOLD_S_MAX = 26 * 3600
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (walls have no zone)


class Dst(enum.StrEnum):
    """What becomes of a time of the day that does not come, or comes twice. See the module."""

    SKIP = "skip"
    ONCE = "once"
    TWICE = "twice"


class Change(NamedTuple):
    """A jump of the wall clock: at this instant (seconds since 1970), from one offset to UTC to another."""

    at_s: int
    before_s: int
    after_s: int


@lru_cache(maxsize=1024)
def zone_info(zone: str) -> ZoneInfo:
    """Raises `Invalid` (`unknown_zone`)."""
    try:
        if len(zone) > 100 or not zone.isprintable():
            raise ValueError
        return ZoneInfo(zone)
    except (ValueError, OSError, KeyError):  # not found is a KeyError; a directory's name is an OSError
        raise Invalid(
            f"time zone {zone[:100]!r} is not known; IANA names are, such as Europe/Berlin or UTC",
            code="unknown_zone",
            zone=zone[:100],
        ) from None


def offset_s(zone: str, at_s: int) -> int:
    """What the wall clock shows there and then, less UTC."""
    offset = datetime.fromtimestamp(at_s, zone_info(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


@lru_cache(maxsize=4096)
def _changes(zone: str, year: int) -> tuple[Change, ...]:
    """Of one year, UTC."""
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found: list[Change] = []
    at, before = begin - 1, offset_s(zone, begin - 1)
    while at < end - 1:
        until = min(at + _PROBE_S, end - 1)
        after = offset_s(zone, until)
        if after != before:
            low, high = at, until
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_s(zone, middle) == before else (low, middle)
            found.append(Change(high, before, after))
        at, before = until, after
    return tuple(found)


def _next_change(zone: str, at_s: int, until_s: int) -> Change | None:
    """The first one later than `at_s`, looking as far as the year of `until_s`."""
    for year in range(_year(at_s), _year(until_s) + 1):
        for change in _changes(zone, year):
            if change.at_s > at_s:
                return change
    return None


def _last_change(zone: str, at_s: int) -> Change | None:
    """The last one not later than `at_s`, if it is near enough to matter."""
    last = None
    for year in range(_year(at_s - _FOLD_S_MAX), _year(at_s) + 1):
        for change in _changes(zone, year):
            if change.at_s <= at_s:
                last = change
    return last if last is not None and at_s - last.at_s < _FOLD_S_MAX else None


def _year(at_s: int) -> int:
    return (_EPOCH + timedelta(seconds=at_s)).year


class Walk(NamedTuple):
    """How jumps are walked over: whether a gap's times are made up for at its end, and a fold's times count twice."""

    fills: bool
    repeats: bool

    @classmethod
    def of(cls, cron: CronText, policy: Dst) -> Walk:
        if cron.follows_hours:
            return cls(fills=False, repeats=True)
        return cls(fills=policy is not Dst.SKIP, repeats=policy is Dst.TWICE)


def fire_after(cron: CronText, zone: str, policy: Dst, at_s: int) -> int | None:
    """The first instant later than `at_s` at which it fires; None: none in 50 years. All in seconds since 1970."""
    walk = Walk.of(cron, policy)

    def wall_after(wall_s: int) -> int | None:
        found = cron.after(_EPOCH + timedelta(seconds=wall_s))
        return None if found is None else int((found - _EPOCH).total_seconds())

    if zone == "UTC":
        return wall_after(at_s)
    offset = offset_s(zone, at_s)
    start = at_s + offset  # what comes must be later on the wall
    last = _last_change(zone, at_s)
    if last is not None and not walk.repeats:
        start = max(start, last.at_s + last.before_s - 1)  # where the fold ends
    return _walk(wall_after, zone, walk, at_s, offset, start)


def _walk(
    wall_after: Callable[[int], int | None], zone: str, walk: Walk, at_s: int, offset: int, start: int
) -> int | None:
    wall: int | None = None
    while True:
        if wall is None or wall <= start:
            wall = wall_after(start)
        if wall is None:
            return None
        change = _next_change(zone, at_s, wall - offset)
        if change is None or wall < change.at_s + offset:
            return wall - offset
        at_s, offset = change.at_s, change.after_s
        if offset > change.before_s:
            if walk.fills and wall < at_s + offset:
                return at_s
            start = at_s + offset - 1
        elif walk.repeats:
            start, wall = at_s + offset - 1, None  # the same wall times again
        else:
            start = at_s + change.before_s - 1


def note(zone: str, at_s: int) -> str:
    """What is unusual about a fire at that instant; empty when nothing is."""
    last = _last_change(zone, at_s)
    if last is not None and last.after_s < last.before_s and at_s < last.at_s + last.before_s - last.after_s:
        return "the second time that the clock shows this"
    following = _next_change(zone, at_s, at_s + _FOLD_S_MAX)
    if following is not None and following.at_s - at_s <= following.before_s - following.after_s:
        return "the first time that the clock shows this"
    return ""
