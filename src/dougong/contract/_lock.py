"""Field numbers that never change meaning: a committed file per contract.

On the wire a field is its number. Numbers taken from the order of declaration would move when somebody inserts a
field, and old data would be read as something else. The lock remembers which number each name got, for ever: a deleted
field's number and name stay reserved, a new field gets the next number never used.

The file is `contract.lock.toml` in the package that defines the messages, or in one above it (the nearest wins).
Messages without a lock are numbered by declaration, which is right for tests and for the first hour.
"""

from __future__ import annotations

import functools
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from dougong.contract._declare import Message, Service, describe
from dougong.contract._shape import EnumShape, MessageShape, Shape, closure
from dougong.errors import Invalid

__all__ = ["LOCK_NAME", "FieldLock", "LockedField", "check_lock", "lock_for", "lock_path", "write_lock"]

LOCK_NAME = "contract.lock.toml"
_GENERATE = "run `dougong contract generate` and commit the lock"
_HEAD = """\
# Field numbers on the wire. Written by `dougong contract generate`; commit it. A number never changes its meaning:
# what is deleted stays reserved.
"""

T = TypeVar("T")


class LockedField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field's number, and its type when it was locked."""

    number: int
    type: str


class FieldLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers of one contract, by message (or enum) and name."""

    messages: dict[str, dict[str, LockedField]] = {}
    enums: dict[str, dict[str, int]] = {}
    deleted: dict[str, dict[str, int]] = {}
    """Numbers of fields and enum members that are gone; neither name nor number is given out again."""

    @classmethod
    def read(cls, path: Path) -> FieldLock:
        """Raises Invalid (`lock_unreadable`) naming the file and what is wrong with it."""
        try:
            return cls.parse(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Invalid(
                f"{path} is no field lock: {error}; restore it from version control",
                code="lock_unreadable",
                file=str(path),
            ) from error

    @classmethod
    def parse(cls, text: str) -> FieldLock:
        """The lock in a text; ValueError when it is none."""
        lock = msgspec.convert(tomllib.loads(text), cls)
        for name in {*lock.messages, *lock.enums}:
            numbers = [*lock.numbers(name).values(), *lock.deleted.get(name, {}).values()]
            if len(set(numbers)) != len(numbers) or min(numbers, default=1) < 1:
                raise ValueError(f"{name} has a number twice, or one below 1")
        return lock

    def numbers(self, name: str) -> dict[str, int]:
        """Name → number of one message or enum; empty if it is not locked."""
        if name in self.messages:
            return {field: locked.number for field, locked in self.messages[name].items()}
        return dict(self.enums.get(name, {}))

    def text(self) -> str:
        """As committed: sorted by type, then by number, one line each, so that changes read well and merge."""
        parts = [_HEAD]
        for name, fields in sorted(self.messages.items()):
            lines = [
                f'{field} = {{ number = {locked.number}, type = "{locked.type}" }}'
                for field, locked in sorted(fields.items(), key=lambda item: item[1].number)
            ]
            parts.append("\n".join([f"[messages.{name}]", *lines]) + "\n")
        for table, types in (("enums", self.enums), ("deleted", self.deleted)):
            for name, numbers in sorted(types.items()):
                lines = [f"{key} = {number}" for key, number in sorted(numbers.items(), key=lambda item: item[1])]
                parts.append("\n".join([f"[{table}.{name}]", *lines]) + "\n")
        return "\n".join(parts)


class Numbering(msgspec.Struct, frozen=True):
    """The lock as it should be after looking at today's classes, and what stands against it."""

    lock: FieldLock
    problems: tuple[str, ...]


def renumber(lock: FieldLock, messages: Iterable[MessageShape], enums: Iterable[EnumShape]) -> Numbering:
    """Bring a lock up to today's classes: keep known numbers, reserve those of deleted names, give new names the next.

    Types the lock knows and today's contract does not stay as they are: another service may still speak them.
    """
    problems: list[str] = []
    locked_messages, locked_enums, deleted = dict(lock.messages), dict(lock.enums), dict(lock.deleted)
    for message in messages:
        known = lock.messages.get(message.name, {})
        names = {field.name: field.wire_type for field in message.fields}
        numbers = _next_numbers(message.name, lock, names, deleted, problems)
        for name, wire_type in names.items():
            if name in known and known[name].type != wire_type:
                problems.append(
                    f"{message.name}.{name} changed from {known[name].type} to {wire_type}, which old readers would "
                    f"misread; add a field with a new name (or, if it was never released, delete its line in the lock)"
                )
        locked_messages[message.name] = {name: LockedField(numbers[name], names[name]) for name in names}
    for enum in enums:
        locked_enums[enum.name] = _next_numbers(
            enum.name, lock, dict.fromkeys(enum.type.__members__, ""), deleted, problems
        )
    return Numbering(FieldLock(locked_messages, locked_enums, deleted), tuple(problems))


def _next_numbers(
    owner: str, lock: FieldLock, names: Mapping[str, str], deleted: dict[str, dict[str, int]], problems: list[str]
) -> dict[str, int]:
    known, gone = lock.numbers(owner), lock.deleted.get(owner, {})
    highest = max([0, *known.values(), *gone.values()])
    numbers: dict[str, int] = {}
    for name in names:
        if name in gone:
            problems.append(
                f"{owner}.{name} was deleted and its name and number {gone[name]} are reserved; take another name"
            )
        if name in known:
            numbers[name] = known[name]
        else:
            highest += 1
            numbers[name] = highest
    gone = gone | {name: number for name, number in known.items() if name not in names}
    if gone:
        deleted[owner] = gone
    return numbers


def numbering(messages: Sequence[MessageShape], enums: Sequence[EnumShape]) -> dict[type, dict[str, int]]:
    """The numbers in force: from each type's lock where it has one, by declaration where not.

    A lock that lags behind the classes numbers new fields as it will when written. TypeError when a class takes up a
    deleted name: which of the two a number means could not be told.
    """
    found: dict[type, dict[str, int]] = {}
    for path, (some_messages, some_enums) in _by_lock(messages, enums).items():
        lock = _read_cached(path) if path is not None else FieldLock()
        result = renumber(lock, some_messages, some_enums).lock
        shapes: list[Shape] = [*some_messages, *some_enums]
        for shape in shapes:
            numbers = result.numbers(shape.name)
            if reused := numbers.keys() & lock.deleted.get(shape.name, {}).keys():
                raise TypeError(
                    f"{shape.type.__qualname__}.{min(reused)} was deleted from this contract ({path}): its name and "
                    "number are reserved; take another name"
                )
            found[shape.type] = numbers
    return found


def reserved(shape: Shape) -> dict[str, int]:
    """Deleted names of a message or enum and the numbers they had."""
    path = lock_path(shape.type)
    return dict(_read_cached(path).deleted.get(shape.name, {})) if path is not None else {}


def lock_path(kind: type) -> Path | None:
    """The lock that numbers a message or enum class: in its package, or the nearest above it; None if there is none."""
    return _lock_path(kind.__module__)


@functools.cache
def _lock_path(module: str) -> Path | None:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        package = sys.modules.get(".".join(parts[:end]))
        for folder in getattr(package, "__path__", ()):
            if (path := Path(folder) / LOCK_NAME).is_file():
                return path
    return None


@functools.cache
def _read_cached(path: Path) -> FieldLock:
    return FieldLock.read(path)


def _by_lock(
    messages: Iterable[MessageShape], enums: Iterable[EnumShape]
) -> dict[Path | None, tuple[list[MessageShape], list[EnumShape]]]:
    groups: dict[Path | None, tuple[list[MessageShape], list[EnumShape]]] = {}
    for message in messages:
        groups.setdefault(lock_path(message.type), ([], []))[0].append(message)
    for enum in enums:
        groups.setdefault(lock_path(enum.type), ([], []))[1].append(enum)
    return groups


def lock_for(services: Iterable[type[Service]], base: FieldLock | None = None) -> FieldLock:
    """The lock of everything these services say, continuing `base`. TypeError listing what stands against it."""
    result = renumber(base or FieldLock(), *_said_by(services))
    if result.problems:
        raise TypeError("; ".join(result.problems))
    return result.lock


def check_lock(services: Iterable[type[Service]], path: Path) -> list[str]:
    """What is wrong with the lock file for these services, each with its remedy; empty when it is up to date.

    Only types defined under the lock's own package count: others have a lock of their own.
    """
    if not path.is_file():
        return [f"{path} does not exist; {_GENERATE}"]
    try:
        lock = FieldLock.read(path)
    except Invalid as error:
        return [error.message]
    messages, enums = _under(path, *_said_by(services))
    result = renumber(lock, messages, enums)
    problems = list(result.problems)
    shapes: list[Shape] = [*messages, *enums]
    for shape in shapes:
        before, after = lock.numbers(shape.name), result.lock.numbers(shape.name)
        where = f"{shape.name}.{{}} ({path.name})"
        problems += [f"{where.format(name)} is not locked yet; {_GENERATE}" for name in after if name not in before]
        problems += [
            f"{where.format(name)} is gone but not reserved yet; {_GENERATE}" for name in before - after.keys()
        ]
        if not after and shape.name not in (lock.messages if isinstance(shape, MessageShape) else lock.enums):
            problems.append(f"{shape.name} ({path.name}) is not locked yet; {_GENERATE}")
    return problems


def write_lock(services: Iterable[type[Service]], path: Path) -> bool:
    """Write or extend the lock file; True if it changed. TypeError, and nothing written, if a change would break it.

    Processes that run keep the numbers they started with.
    """
    base = FieldLock.read(path) if path.is_file() else FieldLock()
    result = renumber(base, *_under(path, *_said_by(services)))
    if result.problems:
        raise TypeError("; ".join(result.problems))
    text = result.lock.text()
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, "utf-8")
    _lock_path.cache_clear()
    _read_cached.cache_clear()
    return True


def _said_by(services: Iterable[type[Service]]) -> tuple[Sequence[MessageShape], Sequence[EnumShape]]:
    roots: dict[type[Message], None] = {}
    for service in services:
        for method in describe(service).methods:
            roots |= {method.request: None, method.response: None}
    return closure(roots)


def _under(
    path: Path, messages: Iterable[MessageShape], enums: Iterable[EnumShape]
) -> tuple[list[MessageShape], list[EnumShape]]:
    """The types whose lock `path` is, or would be if it existed."""

    def owned(kind: type) -> bool:
        nearest = lock_path(kind)
        if nearest is not None and nearest.resolve() == path.resolve():
            return True
        parts = kind.__module__.split(".")
        folders: list[str] = []
        for end in range(len(parts), 0, -1):
            folders += getattr(sys.modules.get(".".join(parts[:end])), "__path__", ())
        # Walking up: the new file is this type's if no nearer lock exists on the way to it.
        for folder in folders:
            if Path(folder).resolve() == path.resolve().parent:
                return True
            if nearest is not None and Path(folder).resolve() == nearest.resolve().parent:
                return False
        return False

    return [m for m in messages if owned(m.type)], [e for e in enums if owned(e.type)]
