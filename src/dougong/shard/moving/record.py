"""What is known of a move, as values: the one row that every mover and every router goes by."""

from __future__ import annotations

from enum import Enum

import msgspec

__all__ = ["MoveRecord", "Phase", "Wish"]


class Phase(Enum):
    """How far a move is. Whoever takes it over begins with this and nothing else."""

    COPYING = "copying"
    """The source serves and notes which keys change; the target is filled."""
    FENCING = "fencing"
    """The source may be fenced; the last noted keys are on their way."""
    SWITCHED = "switched"
    """The map names the new owner. The old one has to let go, then the new one to begin."""
    REVERSIBLE = "reversible"
    """The new owner serves and notes which keys change; the old one keeps its copy, to be brought up to date."""
    ENDING = "ending"
    """The owner stops taking notes, and the other copy is deleted."""
    DONE = "done"


class Wish(Enum):
    """What people want of a move; the mover looks at it between two steps."""

    GO = "go"
    PAUSE = "pause"
    """Stand still while copying; changes are noted all the same."""
    CANCEL = "cancel"
    """Before the switch: stay where it is."""
    REVERSE = "reverse"
    """After the switch: go back."""
    COMPLETE = "complete"
    """After the switch: give up the old copy."""


class MoveRecord(msgspec.Struct, frozen=True):
    """A row of `dougong_moves`: the last move of one bucket."""

    bucket: int
    number: int
    """Counts the moves of this bucket."""
    token: int
    """Counts those who took it over. Nobody with an older one changes anything."""
    mover: str
    """Who works on it."""
    source: str
    """The database that owns the bucket. The switch exchanges source and target."""
    target: str
    epoch: int
    """Under which the source owns it."""
    phase: Phase
    wish: Wish
    switches: int
    """How often it changed its owner: odd when it is moved, even when it was brought back."""
    rows: int
    """Copied so far."""
    started_us: int
    ended_us: int

    @property
    def running(self) -> bool:
        """Whether it is not over."""
        return self.phase is not Phase.DONE

    @property
    def closed(self) -> bool:
        """Whether the bucket may be without an owner who takes writes."""
        return self.phase in (Phase.FENCING, Phase.SWITCHED)

    @property
    def outcome(self) -> str:
        """In one word, for people."""
        if self.phase is not Phase.DONE:
            return str(self.phase.value)
        if not self.switches:
            return "cancelled"
        return "moved" if self.switches % 2 else "reversed"
