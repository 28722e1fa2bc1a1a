"""What becomes of fires whose time passed while nobody looked: the scheduler was down, or the clock jumped forward."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

__all__ = ["Due", "Misfire", "due"]


class Misfire(enum.StrEnum):
    """A fire that is dealt with more than `late_s` after its time is a misfire. Those in time always run."""

    CATCH_UP = "catch_up"
    """Those run that are not older than the schedule's window; older ones do not."""
    ONCE = "once"
    """The latest runs for all of them, unless one in time does so anyway."""
    ALL = "all"
    SKIP = "skip"
    """None runs."""


class Due(msgspec.Struct, frozen=True):
    """What is to be done now: fires that run, fires that do not, and which comes next."""

    run: tuple[int, ...]
    missed: tuple[int, ...]
    next_us: int | None


def due(
    next_us: int,
    now_us: int,
    after_us: Callable[[int], int | None],
    policy: Misfire,
    *,
    late_us: int,
    window_us: int,
    limit: int,
) -> Due:
    """Decide about at most `limit` fires, the earliest first. Every fire from `next_us` to `now_us` is in `run` or
    `missed` of this answer, or not before `next_us` of it.
    """
    fires: list[int] = []
    following: int | None = next_us
    while following is not None and following <= now_us and len(fires) < limit:
        fires.append(following)
        following = after_us(following)
    reach_us = {Misfire.ALL: now_us, Misfire.CATCH_UP: max(window_us, late_us)}.get(policy, late_us)
    run = [fire for fire in fires if policy is Misfire.ALL or fire >= now_us - reach_us]
    missed = fires[: len(fires) - len(run)]
    last = following is None or following > now_us
    if policy is Misfire.ONCE and missed and not run and last:
        run.append(missed.pop())
    return Due(tuple(run), tuple(missed), following)
