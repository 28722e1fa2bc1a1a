"""Which jobs a command means."""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import dataclass

import cyclopts

from dougong.errors import Invalid
from dougong.jobs import JobFilter, JobState

__all__ = ["ALL", "Which", "moment_us"]

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Parameters of commands that choose jobs."""

    queue: str = ""
    """Only of this queue."""
    job: str = ""
    """Only of this name."""
    state: str = ""
    """waiting, blocked, running, done, dead or cancelled."""
    schedule: str = ""
    """Only those that this schedule fired."""
    key: str = ""
    """Only with this idempotency key."""
    error: str = ""
    """Only those whose error contains this."""
    since: str = ""
    """Enqueued then or later: 2026-01-31, 2026-01-31T12:00 (UTC), or so long ago: 90s, 15m, 6h, 2d."""
    until: str = ""
    """Enqueued before then."""

    def filter(self) -> JobFilter:
        """As the contract has it. Raises `Invalid`."""
        return JobFilter(
            queue=self.queue,
            job=self.job,
            state=_state(self.state),
            schedule=self.schedule,
            key=self.key,
            error=self.error,
            since_us=moment_us(self.since, "--since"),
            until_us=moment_us(self.until, "--until"),
        )


ALL = Which()


def _state(text: str) -> JobState | None:
    if not text:
        return None
    try:
        return JobState(text.lower())
    except ValueError:
        known = ", ".join(JobState)
        raise Invalid(f"there is no state {text!r}; there are: {known}", code="unknown_state") from None


def moment_us(text: str, flag: str) -> int | None:
    """A date, a time, or so long ago."""
    if not text:
        return None
    if (ago := _AGO.fullmatch(text)) is not None:
        return time.time_ns() // 1000 - int(ago[1]) * _UNIT_S[ago[2]] * 1_000_000
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(
            f"{flag} {text!r} is neither a time, e.g. 2026-01-31T12:00, nor so long ago, e.g. 90s, 15m, 6h, 2d",
            code="bad_time",
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1e6)
