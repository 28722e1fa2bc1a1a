"""Cron text: read strictly, with an error that says which field, where and why; matched with Debian's meaning.

The matching is cronsim's (Debian: when the day of the month or the day of the week begins with a star both must match,
else either). What cronsim refuses it refuses in two words, so the grammar is checked here first.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from cronsim import CronSim, CronSimError

from dougong.errors import Invalid

__all__ = ["CRON_CHARS_MAX", "MACROS", "CronText"]

CRON_CHARS_MAX = 200
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day-of-month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day-of-week", 0, 7, _DAYS),
)
_WORD = re.compile(r"\S+")
_ANY_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 (a wall time, of no zone)


class CronText:
    """A cron text that is right. Raises `Invalid` (`bad_cron`) with `field`, `position` (from 1) and the reason.

    Five fields, or one of `@yearly @annually @monthly @weekly @daily @midnight @hourly`; `*`, lists, ranges, steps,
    names of months and days; `L` and `LW` as day of the month, `MON#2` and `5L` as day of the week.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.expression = _checked(text)
        minute, hour, *_ = self.expression.split()
        self.follows_hours = minute.startswith("*") or hour.startswith("*")
        """Whether it counts hours as they pass rather than naming a time of the day, as Debian's cron has it."""

    def after(self, wall: datetime) -> datetime | None:
        """The next time on the wall that matches, later than `wall`; both without a zone. None: none in 50 years."""
        try:
            return next(CronSim(self.expression, wall))
        except (StopIteration, OverflowError):
            return None


@lru_cache(maxsize=1024)
def cron_text(text: str) -> CronText:
    """The same, remembered."""
    return CronText(text)


def _checked(text: str) -> str:
    """Five fields in capitals."""
    if len(text) > CRON_CHARS_MAX:
        raise _bad(text, "text", CRON_CHARS_MAX + 1, f"it has {len(text)} characters; {CRON_CHARS_MAX} at most")
    for at, char in enumerate(text):
        if not (char.isascii() and (char.isprintable() or char == "\t")):
            raise _bad(text, "text", at + 1, f"{char!r} has no meaning in cron text")
    words = [(word.start(), word.group()) for word in _WORD.finditer(text)]
    if words and words[0][1].startswith("@"):
        return _macro(text, words)
    if len(words) in {6, 7}:
        raise _bad(
            text,
            "text",
            words[5][0] + 1,
            f"{len(words)} fields; five are known, and seconds and years are not supported: for seconds use "
            f"Every(seconds)",
        )
    if len(words) != 5:
        at = words[5][0] if len(words) > 5 else len(text)
        raise _bad(text, "text", at + 1, f"{len(words)} fields; five are needed: {' '.join(f[0] for f in _FIELDS)}")
    for index, (start, word) in enumerate(words):
        _check_field(text, index, start, word.upper())
    expression = " ".join(word.upper() for _, word in words)
    _check_possible(text, expression, words)
    return expression


def _macro(text: str, words: list[tuple[int, str]]) -> str:
    start, word = words[0]
    if word.lower() == "@reboot":
        raise _bad(text, "text", start + 1, "@reboot is no time: run it where the app starts")
    if word.lower() == "@every":
        raise _bad(text, "text", start + 1, "@every is no cron text: use Every(seconds)")
    if word.lower() not in MACROS:
        raise _bad(text, "text", start + 1, f"{word} is not known; there are {' '.join(MACROS)}")
    if len(words) > 1:
        raise _bad(text, "text", words[1][0] + 1, f"nothing may follow {word}")
    return MACROS[word.lower()]


def _check_field(text: str, index: int, start: int, word: str) -> None:
    at = start
    for term in word.split(","):
        _Term(text, index).check(at, term)
        at += len(term) + 1


class _Term:
    """One item of a field's list."""

    def __init__(self, text: str, index: int) -> None:
        self.text = text
        self.field, self.low, self.high, self.names = _FIELDS[index]

    def check(self, at: int, term: str) -> None:
        if not term:
            raise self.bad(at, "a value is missing")
        if self.field == "day-of-week" and "#" in term:
            day, _, nth = term.partition("#")
            self.value(at, day)
            if nth not in {"1", "2", "3", "4", "5"}:
                raise self.bad(at + len(day) + 1, f"{nth!r} after # must be 1 to 5: which of the month it is")
            return
        base, slash, step = term.partition("/")
        if slash and (not (step.isdigit()) or int(step) == 0):
            raise self.bad(at + len(base) + 1, f"the step {step!r} must be a number from 1 on")
        if base == "*" or (self.field == "day-of-month" and base in {"L", "LW"}):
            return
        if self.field == "day-of-week" and base.endswith("L") and base[:-1].isdigit():
            if slash:
                raise self.bad(at + len(base), f"{base} takes no step")
            self.value(at, base[:-1])
            return
        first, dash, last = base.partition("-")
        low = self.value(at, first)
        if dash:
            high = self.value(at + len(first) + 1, last)
            if high < low:
                raise self.bad(at, f"the range {base} goes backwards")

    def value(self, at: int, word: str) -> int:
        if word in self.names:
            return self.names.index(word) + self.low
        if not word.isdigit():
            names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
            reason = "a value is missing" if not word else f"{word!r} is no value"
            raise self.bad(at, f"{reason}: {self.low} to {self.high}{names}")
        if not self.low <= int(word) <= self.high:
            raise self.bad(at, f"{word} is not {self.low} to {self.high}")
        return int(word)

    def bad(self, at: int, reason: str) -> Invalid:
        return _bad(self.text, self.field, at + 1, reason)


def _check_possible(text: str, expression: str, words: list[tuple[int, str]]) -> None:
    """February has no 30th: such a schedule would wait for ever without a word."""
    at = words[2][0] + 1
    never = f"no {' '.join(_FIELDS[i][0] + ' ' + words[i][1] for i in (2, 3, 4))} ever comes"
    try:
        next(CronSim(expression, _ANY_DAY))
    except StopIteration:
        raise _bad(text, "day-of-month", at, never) from None
    except CronSimError as error:
        if str(error) == "Bad day-of-month":
            raise _bad(text, "day-of-month", at, never) from None
        raise _bad(text, "text", 1, str(error)) from None  # pragma: no cover (the grammar above is as strict)


def _bad(text: str, field: str, position: int, reason: str) -> Invalid:
    shown = text if len(text) <= CRON_CHARS_MAX else text[:CRON_CHARS_MAX] + "..."
    return Invalid(
        f"cron text {shown!r}: {field}, position {position}: {reason}",
        code="bad_cron",
        field=field,
        position=position,
        reason=reason,
    )
