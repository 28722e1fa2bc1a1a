"""What clients asked for and what they were told: the only thing a system can be judged by from outside."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

import msgspec

__all__ = ["Call", "History", "Outcome"]

Plain: TypeAlias = "bool | int | float | str | tuple[Plain, ...] | None"


class Outcome(Enum):
    """How a call ended, as far as its caller knows."""

    OK = "ok"
    FAILED = "failed"
    """Surely without effect."""
    UNKNOWN = "unknown"
    """With or without effect: the answer was lost, or the caller died."""


class Call(msgspec.Struct):
    """One call of one client. Unknown until its client says otherwise."""

    client: str
    what: str
    """`transfer`, `place`, …"""
    key: Plain
    value: Plain
    began_s: float
    ended_s: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    result: Plain = None
    """What was answered, or why it failed."""


class History:
    """Calls in the order in which they began."""

    def __init__(self, now: Callable[[], float], note: Callable[[str, str], None]) -> None:
        self._now = now
        self._note = note
        self.calls: list[Call] = []
        self.sealed = False
        """Once the world is over nothing is added."""

    def invoke(self, client: str, what: str, key: Plain = None, value: Plain = None) -> Call:
        """A client begins to call; tell `ok`, `fail` or `unknown` what came of it."""
        call = Call(client, what, key, value, self._now())
        if not self.sealed:
            self.calls.append(call)
            self._note(client, f"invoke {what} {_text(key, value)}")
        return call

    def ok(self, call: Call, result: Plain = None) -> None:
        """It was answered."""
        self._end(call, Outcome.OK, result)

    def fail(self, call: Call, why: Plain = None) -> None:
        """It surely had no effect."""
        self._end(call, Outcome.FAILED, why)

    def unknown(self, call: Call, why: Plain = None) -> None:
        """Nobody knows (Jepsen's `info`)."""
        self._end(call, Outcome.UNKNOWN, why)

    def _end(self, call: Call, outcome: Outcome, result: Plain) -> None:
        if self.sealed:
            return
        call.ended_s, call.outcome, call.result = self._now(), outcome, result
        self._note(call.client, f"{outcome.value} {call.what} {_text(call.key, result)}")


def _text(*values: Plain) -> str:
    return " ".join(str(value) for value in values if value is not None)
