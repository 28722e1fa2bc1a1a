"""Class keywords, `states` and `rules` → a checked declaration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import get_args, get_origin

import msgspec

from dougong.statemachine._protocol import Rule, State
from dougong.statemachine.table import Table, compile_table, problems_of

__all__ = ["Declaration", "declare"]

_SQL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)


class Declaration(msgspec.Struct, frozen=True):
    """A machine's class, compiled."""

    name: str
    rows: str
    """The user's table."""
    key: str
    key_type: type
    reads: tuple[str, ...]
    updated: str
    table: Table


def declare(
    cls: type,
    base: type,
    *,
    table: str,
    key: str,
    name: str,
    version: int,
    migrations: Mapping[int, Mapping[str, str]] | None,
    reads: Sequence[str] | None,
    updated: str | None,
) -> Declaration:
    """Check a class whole; `TypeError` names everything that is wrong. What a subclass leaves out it inherits."""
    above: Declaration | None = getattr(cls, "declaration", None)
    key_type = _key_type(cls, base) or (above.key_type if above else None)
    table = table or (above.rows if above else "")
    key = key or (above.key if above else "id")
    name = name or (above.name if above else table)
    version = version or (above.table.version if above else 1)
    if migrations is None:
        migrations = above.table.migrations if above else {}
    columns = tuple(reads) if reads is not None else (above.reads if above else ())
    if updated is None:
        updated = above.updated if above else ""
    states: Sequence[State] = getattr(cls, "states", ())
    rules: Sequence[Rule] = getattr(cls, "rules", ())

    problems: list[str] = []
    if key_type not in (int, str):
        problems.append("the type of its key is missing: Machine[int] or Machine[str]")
    if not table:
        problems.append('the user\'s table is missing: class ...(Machine[int], table="orders")')
    elif _NAME.fullmatch(name) is None:
        problems.append(f"name {name!r} is no name: lower-case letters, digits, '_', '.', '-', 64 at most")
    problems += [
        f"{what} {column!r} is no plain SQL name"
        for what, column in (("table", table), ("key", key), ("updated", updated), *(("column", c) for c in columns))
        if column and _SQL_NAME.fullmatch(column) is None
    ]
    problems += problems_of(states, rules, version, migrations)
    problems += _method_problems(cls, base, rules)
    if problems:
        raise TypeError(f"machine {cls.__name__}:\n" + "\n".join(f"  - {problem}" for problem in problems))
    assert key_type is not None
    return Declaration(name, table, key, key_type, columns, updated, compile_table(states, rules, version, migrations))


def _key_type(cls: type, base: type) -> type | None:
    """`int` of `Machine[int]`."""
    for origin in getattr(cls, "__orig_bases__", ()):
        if get_origin(origin) is base:
            (argument,) = get_args(origin)
            return argument if isinstance(argument, type) else None
    return None


def _method_problems(cls: type, base: type, rules: Sequence[Rule]) -> list[str]:
    problems: list[str] = []
    for what, name in sorted({(w, n) for r in rules for w, n in (("guard", r.guard), ("action", r.action)) if n}):
        method = getattr(cls, name, None)
        if method is None or not callable(method):
            problems.append(f"{what} {name!r} is no method of the class")
        elif hasattr(base, name):
            problems.append(f"{what} {name!r} has the name of a method that every machine has; rename it")
        elif inspect.iscoroutinefunction(method) != (what == "action"):
            problems.append(f"{what} {name!r} must {'be' if what == 'action' else 'not be'} an async function")
    return problems
