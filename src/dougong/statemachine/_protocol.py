"""What goes into a machine and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from dougong.errors import Conflict, Error, NotFound
from dougong.store import Value

__all__ = [
    "Deadline",
    "Fire",
    "IllegalTransition",
    "Instance",
    "Key",
    "Outcome",
    "Rule",
    "State",
    "Transition",
    "UnknownInstance",
]

Key = int | str
"""What names an instance: the user's own primary key."""
K = TypeVar("K", bound=Key)


class Deadline(msgspec.Struct, frozen=True):
    """Who stays in a state for `after_s` seconds gets `event`, fired like any other: guarded, by compare-and-set."""

    after_s: float
    event: str


class State(msgspec.Struct, frozen=True):
    """A state. Exactly one of a machine's is `initial`; a `final` one is never left."""

    name: str
    initial: bool = False
    final: bool = False
    deadline: Deadline | None = None


class Rule(msgspec.Struct, frozen=True):
    """From `source` (one state or several) `event` leads to `target`, if `guard` allows it; `action` goes with it.

    Guard and action are names of the machine's own methods. Several rules for one state and event are asked in the
    order they stand in; only the last may be without a guard.
    """

    source: str | tuple[str, ...]
    event: str
    target: str
    guard: str = ""
    action: str = ""


class Fire(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """An event for an instance.

    `id` makes it idempotent: fired again, it gives the recorded transition and changes nothing. `data` is for guards
    and actions, and is kept in the history: small, and what msgspec can write as JSON.
    """

    instance: K
    event: str
    id: str | None = None
    data: object = None


class Instance(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """An instance as stored. `columns` are those of the user's own that the machine `reads`."""

    key: K
    state: str
    version: int
    """How many transitions it has made."""
    definition: int
    """The version of the definition under which it stands there."""
    due_us: int | None
    """When its state's deadline passes."""
    columns: Mapping[str, Value] = {}


class Transition(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """Something that happened: `event` took `instance` from `source` to `target`."""

    instance: K
    version: int
    """The instance's own count: 1, 2, 3 ... without gaps."""
    source: str
    event: str
    target: str
    at_us: int
    id: str | None = None
    data: object = None
    """As fired, in the outcome of a fire; as plain JSON values when read from the history."""
    seq: int = 0
    """Its position in the history; 0 in the outcome of a fire."""
    repeated: bool = False
    """It happened before, under the same event id."""


Outcome = Transition[K] | Error
"""Of one fire: what happened, or why nothing did."""


class IllegalTransition(Conflict):
    """The instance's state does not allow the event; `legal` in the fields names those it does allow."""


class UnknownInstance(NotFound):
    """There is no such instance."""
