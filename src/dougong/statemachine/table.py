"""The transition table: what a declaration says, checked whole and made quick to ask.

Everything that affects a transition stands in the declaration: states, rules with their guards, deadlines, and how rows
of older definitions are read. Here is no clock, no database and no method called: only what follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dougong.statemachine._protocol import Rule, State

__all__ = ["MIGRATE", "Move", "Table", "compile_table", "plain", "problems_of"]

plain = str.__str__
"""A member of a text enumeration as the text itself."""

MIGRATE: Final = "~migrate"
"""The event under which the history records that a newer definition renamed an instance's state."""

NAME_CHARS_MAX = 64
DEADLINE_S_MAX = 10 * 366 * 86_400.0

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)


class Move(msgspec.Struct, frozen=True):
    """One way out of one state."""

    event: str
    target: str
    guard: str
    action: str


class Table(msgspec.Struct, frozen=True):
    """A declaration, compiled. Durations in microseconds."""

    version: int
    initial: str
    states: tuple[str, ...]
    finals: frozenset[str]
    moves: Mapping[str, Mapping[str, tuple[Move, ...]]]
    """state → event → the ways it may go, in the order they are asked."""
    events: frozenset[str]
    deadlines: Mapping[str, tuple[int, str]]
    """state → (how long, event)."""
    migrations: Mapping[int, Mapping[str, str]]
    """definition → what its states are called in the next one."""

    def ways(self, state: str, event: str) -> tuple[Move, ...]:
        """Where the event may lead; empty when the state does not allow it."""
        return self.moves[state].get(event, ())

    def legal(self, state: str) -> list[str]:
        """The events a state allows."""
        return sorted(self.moves.get(state, {}))

    def due_us(self, state: str, now_us: int) -> int | None:
        """When the deadline of an instance passes that enters a state now."""
        deadline = self.deadlines.get(state)
        return now_us + deadline[0] if deadline is not None else None

    def migrated(self, state: str, definition: int) -> str | None:
        """What a state of an older definition is called in this one; None when nothing here says."""
        while definition < self.version:
            renamed = self.migrations.get(definition)
            if renamed is None:
                return None
            state = renamed.get(state, state)
            definition += 1
        return state if state in self.moves else None

    def former_states(self) -> frozenset[str]:
        """Names that only older definitions know."""
        return frozenset(old for renamed in self.migrations.values() for old in renamed) - set(self.states)

    def with_durations(self, deadlines_s: Mapping[str, float]) -> Table:
        """The same table with other durations: how long is a deployment's business, that there is one is not."""
        for state, after_s in deadlines_s.items():
            if state not in self.deadlines:
                raise ValueError(f"state {state!r} has no deadline; those that have: {', '.join(self.deadlines)}")
            if not 0 < after_s <= DEADLINE_S_MAX:
                raise ValueError(f"the deadline of {state!r} cannot be {after_s} s")
        deadlines = {
            state: (round(deadlines_s[state] * 1e6) if state in deadlines_s else after_us, event)
            for state, (after_us, event) in self.deadlines.items()
        }
        return msgspec.structs.replace(self, deadlines=deadlines)


def compile_table(
    states: Sequence[State], rules: Sequence[Rule], version: int, migrations: Mapping[int, Mapping[str, str]]
) -> Table:
    """A checked declaration as a table."""
    moves: dict[str, dict[str, tuple[Move, ...]]] = {plain(state.name): {} for state in states}
    for rule in rules:
        move = Move(plain(rule.event), plain(rule.target), rule.guard, rule.action)
        for source in sources_of(rule):
            ways = moves[source]
            ways[move.event] = (*ways.get(move.event, ()), move)
    return Table(
        version,
        next(plain(state.name) for state in states if state.initial),
        tuple(moves),
        frozenset(plain(state.name) for state in states if state.final),
        moves,
        frozenset(plain(rule.event) for rule in rules),
        {
            plain(state.name): (round(state.deadline.after_s * 1e6), plain(state.deadline.event))
            for state in states
            if state.deadline is not None
        },
        {old: {plain(a): plain(b) for a, b in renamed.items()} for old, renamed in migrations.items()},
    )


def sources_of(rule: Rule) -> tuple[str, ...]:
    """The states a rule leads from, as plain text."""
    return (plain(rule.source),) if isinstance(rule.source, str) else tuple(plain(source) for source in rule.source)


def problems_of(
    states: Sequence[State], rules: Sequence[Rule], version: int, migrations: Mapping[int, Mapping[str, str]]
) -> list[str]:
    """Everything that is wrong with a declaration, in words."""
    names = [plain(state.name) for state in states]
    known = set(names)
    problems = [f"state {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for kind, used in (("state", names), ("event", sorted({plain(rule.event) for rule in rules}))):
        problems += [
            f"{kind} {name!r} is no name: letters, digits, '_', '.' and '-', a letter first, {NAME_CHARS_MAX} at most"
            for name in used
            if _NAME.fullmatch(name) is None or len(name) > NAME_CHARS_MAX
        ]
    initials = [plain(state.name) for state in states if state.initial]
    if len(initials) != 1:
        problems.append(f"exactly one state must be initial, not {len(initials)} ({', '.join(initials) or 'none'})")
    problems += _rule_problems(rules, known)
    problems += _shape_problems(states, rules, initials, known)
    problems += _deadline_problems(states, rules)
    problems += _migration_problems(known, version, migrations)
    return problems


def _rule_problems(rules: Sequence[Rule], known: set[str]) -> list[str]:
    problems: list[str] = []
    asked: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        sources = sources_of(rule)
        what = f"{'|'.join(sources) or '(nothing)'} --{rule.event}--> {rule.target}"
        if not sources:
            problems.append(f"{what}: event {plain(rule.event)!r} has no source")
        problems += [f"{what}: there is no state {name!r}" for name in (*sources, rule.target) if name not in known]
        for source in sources:
            guards = asked.setdefault((source, plain(rule.event)), [])
            if rule.guard in guards:
                problems.append(
                    f"{what}: {plain(rule.event)!r} in {source!r} was declared before"
                    + (f" with the guard {rule.guard!r}" if rule.guard else "")
                )
            elif "" in guards:
                problems.append(f"{what}: never asked, since a rule without a guard stands above it")
            guards.append(rule.guard)
    return problems


def _shape_problems(states: Sequence[State], rules: Sequence[Rule], initials: list[str], known: set[str]) -> list[str]:
    problems: list[str] = []
    after: dict[str, set[str]] = {name: set() for name in known}
    for rule in rules:
        for source in sources_of(rule):
            if source in known and rule.target in known:
                after[source].add(plain(rule.target))
    reached, todo = set(initials), list(initials)
    while todo:
        new = after.get(todo.pop(), set()) - reached
        reached |= new
        todo += new
    for state in states:
        name = plain(state.name)
        if initials and name not in reached:
            problems.append(f"state {name!r} is never reached from {initials[0]!r}")
        if state.final and after[name]:
            problems.append(f"final state {name!r} is left by an event")
        if state.final and state.deadline is not None:
            problems.append(f"final state {name!r} has a deadline")
        if not state.final and not after[name] - {name}:
            problems.append(f"state {name!r} is a dead end: nothing leads out of it; is it final?")
    return problems


def _deadline_problems(states: Sequence[State], rules: Sequence[Rule]) -> list[str]:
    legal = {(source, plain(rule.event)) for rule in rules for source in sources_of(rule)}
    problems: list[str] = []
    for state in states:
        if state.deadline is None:
            continue
        if not state.final and (state.name, state.deadline.event) not in legal:
            problems.append(
                f"the deadline of {plain(state.name)!r} fires {plain(state.deadline.event)!r}, illegal there"
            )
        if not 0 < state.deadline.after_s <= DEADLINE_S_MAX:
            problems.append(f"the deadline of {plain(state.name)!r} is after {state.deadline.after_s} s")
    return problems


def _migration_problems(known: set[str], version: int, migrations: Mapping[int, Mapping[str, str]]) -> list[str]:
    problems: list[str] = []
    if version < 1:
        problems.append(f"version must be 1 or more, not {version}")
    expected = list(range(min(migrations, default=version), version))
    if sorted(migrations) != expected:
        problems.append(
            f"migrations start at the oldest definition still alive and end at {version - 1}, each step once: "
            f"{expected or 'none'}, not {sorted(migrations)}"
        )
    elif version > 1 and not migrations:
        problems.append(f"version {version} needs migrations={{{version - 1}: {{...}}}}: old state → new state")
    for old in expected:
        for state in migrations.get(old, {}).values():
            end = plain(state)
            for later in range(old + 1, version):
                end = plain(migrations.get(later, {}).get(end, end))
            if end not in known:
                problems.append(f"migration from {old} leads to {end!r}, which is no state of version {version}")
    return problems
