"""What becomes of an attempt, from how it ended: one table, no clock, no dice.

| how it ended                              | becomes                                                     |
| ----------------------------------------- | ----------------------------------------------------------- |
| returned                                  | done                                                        |
| raised `Invalid`                          | dead: what is wrong with the request stays wrong            |
| raised anything else, timed out, crashed  | again after its back-off; dead when it has no retries left  |
| cancelled by somebody                     | cancelled                                                   |
| interrupted because its worker stops      | returned, attempt not spent                                 |
| its name is not known here                | returned for a while, attempt not spent; dead after so many |
| its arguments do not fit                  | dead at once                                                |

An error's own `retry_after_s` makes the wait longer, never shorter. A job for which `Invalid` may pass (it asks a
service that is being deployed, say) raises another family instead.
"""

from __future__ import annotations

import enum
import traceback

import msgspec

from dougong.errors import DeadlineExceeded, Error, Invalid
from dougong.jobs._protocol import Claimed, Ended, Outcome
from dougong.jobs.retrying import Backoff

__all__ = ["ERROR_CHARS_MAX", "RESULT_BYTES_MAX", "Why", "ended_by", "error_text", "failed", "result_of", "returned"]

ERROR_CHARS_MAX = 2000
MESSAGE_CHARS_MAX = 1000
TRACE_LINES = 4
HINT_S_MAX = 30 * 86_400.0
"""Somebody's `retry_after_s` is a hint, and need not be a number that a time can be made of."""
RESULT_BYTES_MAX = 64 * 1024
_encode = msgspec.json.Encoder().encode


class Why(enum.Enum):
    """Why somebody ended an attempt before it ended by itself."""

    CANCELLED = "cancelled"
    """Somebody asked for it."""
    TIMED_OUT = "timed_out"
    STUCK = "stuck"
    """Its heartbeat stayed away."""
    STOPPING = "stopping"
    """The worker stops."""
    LOST = "lost"
    """The worker's term is over: the job is another's by now, and nothing is written."""


def failed(claimed: Claimed, error: BaseException, retries: int, backoff: Backoff, now_us: int, random: float) -> Ended:
    """After an attempt that raised; `random` is in [0, 1)."""
    text = error_text(error)
    if isinstance(error, Invalid) or claimed.attempt > retries:
        return Ended(claimed=claimed, outcome=Outcome.DEAD, error=text)
    wait_s = backoff.wait_s(max(claimed.attempt, 1), random)
    if isinstance(error, Error) and error.retry_after_s is not None and error.retry_after_s > wait_s:
        wait_s = min(error.retry_after_s, HINT_S_MAX)
    return Ended(claimed=claimed, outcome=Outcome.RETRY, due_us=now_us + round(wait_s * 1e6), error=text)


def ended_by(
    why: Why,
    claimed: Claimed,
    *,
    timeout_s: float | None,
    heartbeat_s: float | None,
    retries: int,
    backoff: Backoff,
    now_us: int,
    random: float,
) -> Ended | None:
    """After an attempt that was ended from outside; None when nothing may be written."""
    if why is Why.CANCELLED:
        return Ended(claimed=claimed, outcome=Outcome.CANCELLED)
    if why is Why.STOPPING:
        return returned(claimed)
    if why is Why.LOST:
        return None
    if why is Why.STUCK:
        error = DeadlineExceeded(f"no heartbeat for {heartbeat_s} s", code="job_stuck")
    else:
        error = DeadlineExceeded(f"took longer than its timeout_s of {timeout_s}", code="job_timed_out")
    return failed(claimed, error, retries, backoff, now_us, random)


def returned(claimed: Claimed, due_us: int | None = None) -> Ended:
    """Interrupted by no fault of its own, or not for here."""
    return Ended(claimed=claimed, outcome=Outcome.RETURNED, due_us=due_us)


def result_of(value: object) -> tuple[bytes | None, str]:
    """What a function returned as JSON, or why it cannot be kept. The job is done all the same: it did its work, and
    doing it again would help nobody.
    """
    if value is None:
        return None, ""
    try:
        result = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return None, f"the result cannot be written as JSON and is not kept: {error}"[:MESSAGE_CHARS_MAX]
    if len(result) > RESULT_BYTES_MAX:
        return None, (
            f"the result is {len(result):,} bytes as JSON and is not kept; {RESULT_BYTES_MAX:,} at most: store it, "
            f"and return its id"
        )
    return result, ""


def error_text(error: BaseException) -> str:
    """`kind: message` and the last places it passed, for people. Never more than `ERROR_CHARS_MAX`."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (somebody's __str__ is broken; that must not replace the error itself)
        message = "(its text cannot be made)"
    kind = type(error).__name__
    lines = [f"{kind}: {message}"[:MESSAGE_CHARS_MAX]]
    try:
        frames = traceback.extract_tb(error.__traceback__)[-TRACE_LINES:]
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line or ''}" for frame in frames]
    except Exception:  # noqa: BLE001, S110 (sources may be gone or unreadable; the message is there)
        pass
    # Not every database stores NUL, and none stores half a surrogate pair.
    text = "\n".join(lines).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return text[:ERROR_CHARS_MAX]
