"""When: by cron text, every so often, or at one time. Each answers one question: when next, after that?

Nothing here has state or looks at a clock: fires are a function of the definition, so that any process, after any
pause, computes the same ones.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from dougong.errors import Invalid
from dougong.jobs.schedules.cron import CronText, cron_text
from dougong.jobs.schedules.dst import Dst, Walk, fire_after, note, offset_s, zone_info

__all__ = ["At", "Cron", "Every", "When"]

SECOND_US = 1_000_000
_LATEST_US = 32_503_680_000 * SECOND_US  # the year 3000; nobody plans further, and datetime ends somewhere there


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """By cron text, in a zone. Raises `Invalid` (`bad_cron`, `unknown_zone`).

    >>> nightly = Cron("30 2 * * *", "America/New_York")
    >>> nightly.after_us(1_772_928_000_000_000) // 1_000_000     # 2026-03-08: half past two does not come; at three
    1772953200
    """

    text: str
    zone: str = "UTC"
    dst: Dst = Dst.ONCE

    def __post_init__(self) -> None:
        cron_text(self.text)
        zone_info(self.zone)

    def after_us(self, at_us: int) -> int | None:
        """The first fire later than that."""
        if not -_LATEST_US < at_us < _LATEST_US:
            return None
        fire_s = fire_after(cron_text(self.text), self.zone, self.dst, at_us // SECOND_US)
        return None if fire_s is None else fire_s * SECOND_US

    def why(self, fire_us: int) -> str:
        """Why it fires then, for people: the time on the wall there, and what is unusual about it."""
        fire_s = fire_us // SECOND_US
        wall = datetime.fromtimestamp(fire_s, zone_info(self.zone))
        words = f"{self.text!r} at {wall:%a %Y-%m-%d %H:%M:%S} {self.zone}"
        gap = self._filled(cron_text(self.text), fire_s)
        unusual = gap or note(self.zone, fire_s)
        return f"{words}: {unusual}" if unusual else words

    def _filled(self, cron: CronText, fire_s: int) -> str:
        """Whether it stands for a time that did not come."""
        before_s, after_s = offset_s(self.zone, fire_s - 1), offset_s(self.zone, fire_s)
        if after_s <= before_s or not Walk.of(cron, self.dst).fills:
            return ""
        missing_s = fire_after(cron, "UTC", self.dst, fire_s + before_s - 1)
        if missing_s is None or missing_s >= fire_s + after_s:
            return ""
        missing = datetime.fromtimestamp(missing_s, zone_info("UTC"))
        return f"in place of {missing:%Y-%m-%d %H:%M}, which the clock there skips"


class Every(msgspec.Struct, frozen=True, tag="every"):
    """Every so many seconds, counted from 1970 and an offset: the same instants in every process."""

    seconds: float
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= 3e9:
            raise Invalid(f"every {self.seconds} s: from 1 s on", code="bad_interval", seconds=self.seconds)
        if not 0 <= self.offset_s < self.seconds:
            raise Invalid(
                f"offset {self.offset_s} s of every {self.seconds} s: from 0 on, and less than the interval",
                code="bad_interval",
                offset_s=self.offset_s,
            )

    def after_us(self, at_us: int) -> int | None:
        """The first fire later than that."""
        every, offset = round(self.seconds * SECOND_US), round(self.offset_s * SECOND_US)
        return ((at_us - offset) // every + 1) * every + offset

    def why(self, fire_us: int) -> str:
        offset = f", and {self.offset_s:g} s" if self.offset_s else ""
        return f"every {self.seconds:g} s{offset}"


class At(msgspec.Struct, frozen=True, tag="at"):
    """Once, at that time (UTC, microseconds)."""

    at_us: int

    def __post_init__(self) -> None:
        if not 0 <= self.at_us < _LATEST_US:
            raise Invalid(f"at {self.at_us} us is not between 1970 and 3000", code="bad_time", at_us=self.at_us)

    def after_us(self, at_us: int) -> int | None:
        """The first fire later than that."""
        return self.at_us if at_us < self.at_us else None

    def why(self, fire_us: int) -> str:
        return "once"


When = Cron | Every | At
