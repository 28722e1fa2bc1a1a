"""Every fault is a decision with a name, so that it can be left out when the story is told again.

A decision is named after its source (a link, a disk, a node's crashes) and its number there: `link orders>stock#17`.
Each source draws from a generator of its own, the same amount per decision whatever comes of it, so leaving one fault
out changes no other decision by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

import msgspec

__all__ = ["Chaos", "Fault", "FaultSource", "Faults"]


class Fault(msgspec.Struct, frozen=True):
    """One that struck."""

    key: str
    at_s: float
    where: str
    """A node, a link or a disk."""
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:10.3f} s  {self.where:<20}  {self.what}"


class Chaos(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How bad it gets until `World.heal`. Probabilities are per message or unit, `every_s` is on average; 0 is never.

    The defaults are a calm world: things take time, and nothing goes wrong.
    """

    crash_every_s: float = 0.0
    """Per node: its process is killed between two callbacks, and started again after about `down_s`."""
    down_s: float = 1.0
    partition_every_s: float = 0.0
    """Two nodes do not hear each other for about `partition_s`."""
    partition_s: float = 3.0
    delay_s: float = 0.05
    """The longest ordinary delay of a message, which is no fault; different delays reorder."""
    request_lost: float = 0.0
    answer_lost: float = 0.0
    request_twice: float = 0.0
    """A copy is delivered again, up to a minute later. Idempotent methods only: no client repeats others."""
    request_late: float = 0.0
    """A request arrives long after its caller gave up. Idempotent methods only, as above."""
    stream_broken: float = 0.0
    write_s: float = 0.01
    """The longest ordinary wait before a commit, and again after it; no fault."""
    write_slow: float = 0.0
    """A unit waits up to 5 s."""
    disk_full: float = 0.0
    disk_locked: float = 0.0
    disk_gone_every_s: float = 0.0
    """Per disk: every read and write fails for about `disk_gone_s`."""
    disk_gone_s: float = 2.0
    clock_skew_s: float = 0.0
    """The most a node's wall clock is off when the world begins."""
    clock_drift: float = 0.0
    """The most it gains or loses per second."""
    clock_jump_every_s: float = 0.0
    """Per node: its wall clock is set forwards or back by up to `clock_jump_s`."""
    clock_jump_s: float = 5.0
    still_every_s: float = 0.0
    """Per node: its process stands still for about `still_s`, and goes on as if nothing had been."""
    still_s: float = 3.0

    def varied(self, draw: random.Random) -> Chaos:
        """Some kinds left out, some more or less often: a quarter of the bugs hide behind other faults."""
        changed = {
            name: getattr(self, name) * draw.choice((0.0, 0.3, 1.0, 1.0, 1.7))
            for name in self.__struct_fields__
            if name not in _MEASURES
        }
        for name in ("crash_every_s", "partition_every_s", "disk_gone_every_s", "clock_jump_every_s", "still_every_s"):
            changed[name] = getattr(self, name) * draw.choice((0.0, 0.5, 1.0, 1.0, 2.0))
        return msgspec.structs.replace(self, **changed)


_MEASURES = frozenset(
    {"down_s", "partition_s", "delay_s", "write_s", "disk_gone_s", "clock_jump_s"}
    | {"crash_every_s", "partition_every_s", "disk_gone_every_s", "clock_jump_every_s"}
    | {"still_every_s", "still_s"}
)


class Faults:
    """All decisions of one world."""

    def __init__(
        self,
        stream: Callable[[str], random.Random],
        now: Callable[[], float],
        note: Callable[[str, str], None],
        only: Collection[str] | None,
    ) -> None:
        """`only`: keys of the faults that may strike; None for all."""
        self._stream = stream
        self._now = now
        self._note = note
        self._only = frozenset(only) if only is not None else None
        self.healed = False
        self.happened: list[Fault] = []

    def source(self, name: str, where: str) -> FaultSource:
        """A source of decisions; the name is unique in the world."""
        return FaultSource(self, name, where, self._stream(name))

    def allow(self, key: str, where: str, what: str) -> bool:
        if self.healed or (self._only is not None and key not in self._only):
            return False
        self.happened.append(Fault(key, self._now(), where, what))
        self._note(where, f"FAULT {what}")
        return True


class FaultSource:
    """Decisions of one kind at one place."""

    __slots__ = ("_count", "_draw", "_faults", "_name", "_where", "random")

    def __init__(self, faults: Faults, name: str, where: str, random_: random.Random) -> None:
        self._faults = faults
        self._name = name
        self._where = where
        self._count = 0
        self.random = random_
        """For what is drawn with every decision, fault or not."""
        self._draw = random_.random

    def strike(self, kinds: Sequence[tuple[float, str]], detail: str = "") -> tuple[str, float] | None:
        """Which of the kinds (probability, what) strikes now, with a number in [0, 1) that says how; mostly None."""
        self._count += 1
        roll, how = self._draw(), self._draw()
        for probability, what in kinds:
            if roll < probability:
                if self._faults.allow(f"{self._name}#{self._count}", self._where, f"{what} {detail}".strip()):
                    return what, how
                return None
            roll -= probability
        return None

    def allow(self, what: str) -> bool:
        """Whether this fault, which comes by itself, may strike."""
        self._count += 1
        return self._faults.allow(f"{self._name}#{self._count}", self._where, what)
