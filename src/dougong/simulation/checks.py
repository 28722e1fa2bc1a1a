"""Judges: plain functions over what was seen, each a list of what is wrong, empty when nothing is.

They ask what a client or an auditor would ask. Where the answer has to come from a database, read it after the world is
over (`Database.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from dougong.simulation.history import Call, Outcome, Plain

__all__ = ["conserved", "durable", "monotonic", "no_effect_after", "one_outcome"]

K = TypeVar("K")
S = TypeVar("S")


def conserved(what: str, total: int, parts: Mapping[str, int]) -> list[str]:
    """Nothing appeared, nothing vanished, nothing is below zero: `conserved("lamps", 30, {"free": 28, "sold": 2})`."""
    found = [f"{what}: {amount} {name}" for name, amount in parts.items() if amount < 0]
    if sum(parts.values()) != total:
        sums = " + ".join(f"{amount} {name}" for name, amount in parts.items())
        found.append(f"{what}: {sums} = {sum(parts.values())}, not {total}")
    return found


def one_outcome(what: str, outcomes: Iterable[tuple[K, S]], *, keys: Iterable[K] = ()) -> list[str]:
    """Each key has one outcome, told as often as may be; `keys`: those that must have one."""
    seen: dict[K, list[S]] = {key: [] for key in keys}
    for key, outcome in outcomes:
        known = seen.setdefault(key, [])
        if outcome not in known:
            known.append(outcome)
    return [f"{what} {key} has no outcome" for key, known in seen.items() if not known] + [
        f"{what} {key} has several outcomes: {', '.join(map(str, known))}"
        for key, known in seen.items()
        if len(known) > 1
    ]


def no_effect_after(
    what: str, effects: Iterable[tuple[K, S]], *, last: Collection[S], none_of: Collection[S] = ()
) -> list[str]:
    """In order of happening, nothing happens to a key after one of `last` (a cancel), or only what is not in
    `none_of`, if that is given."""
    ended: dict[K, S] = {}
    found: list[str] = []
    for key, effect in effects:
        if key in ended and (not none_of or effect in none_of):
            found.append(f"{what} {key}: {effect} after {ended[key]}")
        if effect in last:
            ended.setdefault(key, effect)
    return found


def monotonic(
    what: str, states: Iterable[tuple[K, S]], *, allowed: Mapping[S, Collection[S]] | Callable[[S, S], bool]
) -> list[str]:
    """In order of observation, a key's states only ever go where they may: each to itself, or to one of `allowed`."""
    found: list[str] = []
    last: dict[K, S] = {}
    for key, state in states:
        before = last.get(key, state)
        if before != state:
            fine = allowed(before, state) if callable(allowed) else state in allowed.get(before, ())
            if not fine:
                found.append(f"{what} {key}: {state} after {before}")
        last[key] = state
    return found


def durable(what: str, calls: Iterable[Call], kept: Callable[[Call], Plain]) -> list[str]:
    """What was acknowledged is there, and what surely failed is not: `kept` says what there is now of a call's effect
    (its result), None for nothing. Calls with unknown outcome may have had it or not."""
    found: list[str] = []
    for call in calls:
        if call.outcome is Outcome.UNKNOWN:
            continue
        now = kept(call)
        if call.outcome is Outcome.OK and now != call.result:
            found.append(f"{what} {call.key} of {call.client} was acknowledged as {call.result!r}, and is {now!r}")
        elif call.outcome is Outcome.FAILED and now is not None:
            found.append(f"{what} {call.key} of {call.client} was told to have failed, and is {now!r}")
    return found
