"""Who holds a connection for too long, from where, and what was asked on it last.

HikariCP's leak detection starts a timer for every loan and takes a stack trace with each. Here a loan leaves a few
marks on its connection's record (a task's name, where it was called from, the time), and one sweep over the records
finds those that matter: held for longer than the threshold, held by a task that has ended, or by nobody at all,
because the lease was dropped. Text is made only for what is reported.

A live connection is never taken from who has it: whoever is slow is named, and named again as harmless when it comes
back. Only a lease that exists no more gives its connection up, to be closed.
"""

from __future__ import annotations

import asyncio
import linecache
import os
from asyncio import Task
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from dougong.store._pooling import Slot

__all__ = ["Leak", "frames", "holder", "suspects"]

_ROOM, _LOOP = (str(Path(file).parent) + os.sep for file in (__file__, asyncio.__file__))
FRAMES_MAX = 24
SAMPLE = 64
"""Every loan notes its caller; one in so many notes all callers, and so do all while somebody is late. A further frame
costs 0.3 µs, as much as everything else about a name."""


class Leak(msgspec.Struct, frozen=True):
    """A connection that was not given back in time."""

    kind: str
    """`held`: for longer than the threshold; `ended`: its task is over; `dropped`: nobody has its lease any more."""
    database: str
    task: str
    stack: tuple[str, ...]
    """Where it was acquired, the innermost call first: `file:line function: text`. Most loans note one call only."""
    now_at: tuple[str, ...]
    """Where its task waits now, the innermost call last; empty when it has ended."""
    held_s: float
    sql: str
    """What was asked on it last; empty when nothing was."""


def frames(frame: FrameType | None, most: int) -> list[tuple[CodeType, int]]:
    """Code and instruction of a frame and of those that called it."""
    # Line numbers are looked up when somebody reads them: that costs as much as all the rest.
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < most:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return found


def suspects(slots: Iterable[Slot], database: str, after_s: float, now: float) -> list[tuple[Slot, Leak]]:
    """What is to be reported now and was not before. Marks what it reports."""
    found: list[tuple[Slot, Leak]] = []
    for slot in slots:
        if slot.lease is None:
            continue
        if slot.lease() is None:
            kind = "dropped"  # also when it was reported before: now it can be closed
        elif slot.suspected:
            continue
        elif slot.task is not None and ((task := slot.task()) is None or task.done()):
            kind = "ended"
        elif now - slot.since >= after_s:
            kind = "held"
        else:
            continue
        slot.suspected = True
        found.append((slot, describe(slot, kind, database, now)))
    return found


def describe(slot: Slot, kind: str, database: str, now: float) -> Leak:
    return Leak(
        kind=kind,
        database=database,
        task=slot.task_name,
        stack=tuple(_stack(slot)),
        now_at=_now_at(slot.task() if slot.task is not None else None),
        held_s=round(now - slot.since, 3),
        sql=slot.link.last_sql,
    )


def holder(slots: Iterable[Slot], now: float) -> str:
    """Who has had a connection for longest, for the message to who waits in vain."""
    held = [slot for slot in slots if slot.lease is not None]
    if not held:
        return "all are being opened"
    slot = min(held, key=lambda slot: slot.since)
    return (
        f"the longest for {now - slot.since:.1f} s, by task {slot.task_name!r} from {_stack(slot)[0]}:"
        f" {slot.link.last_sql}"
    )


def _stack(slot: Slot) -> list[str]:
    """From the caller of this room up to where the loop began."""
    if slot.code is None:
        return []
    places = [(code, _line(code, at)) for code, at in ((slot.code, slot.instruction), *slot.callers)]
    outside = [place for place in places if not place[0].co_filename.startswith((_ROOM, _LOOP))]
    return [_place(code, line) for code, line in outside or places]


def _line(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _place(code: CodeType, line: int) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} {code.co_qualname}" + (f": {text}" if text else "")


def _now_at(task: Task[Any] | None) -> tuple[str, ...]:
    """Down the chain of awaits to where it stopped; `Task.get_stack` shows only its beginning."""
    if task is None or task.done():
        return ()
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(places) < FRAMES_MAX:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            places.append(_place(frame.f_code, frame.f_lineno))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return tuple(places)
