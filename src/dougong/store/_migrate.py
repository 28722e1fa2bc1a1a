"""Forward-only schema steps: numbered, applied in order under the write lock, recorded with their checksums."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from importlib import resources

from dougong.errors import Conflict, Invalid
from dougong.store._protocol import Migration
from dougong.telemetry import get_logger

__all__ = ["apply", "check", "migrations_from", "statements"]

_log = get_logger("dougong.store")

TABLE = """
CREATE TABLE IF NOT EXISTS dougong_migrations (
    owner TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_us INTEGER NOT NULL,
    PRIMARY KEY (owner, number)
) WITHOUT ROWID
"""


def migrations_from(package: str) -> list[Migration]:
    """The files `NNNN_name.sql` of a package, by number.

    `shop.orders.migrations` with `0001_orders.sql` in it gives `[Migration(1, "orders", ...)]`. Other `.sql` names,
    and a number that comes twice, are refused (`Invalid`, code `bad_migrations`): a typo must not skip a step silently.
    """
    found: dict[int, Migration] = {}
    for entry in resources.files(package).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", entry.name)
        if match is None:
            raise _bad(f"{package}: {entry.name!r} is not named like 0001_what_it_does.sql")
        number = int(match[1])
        if number in found:
            raise _bad(
                f"{package}: number {number:04} belongs to {found[number].name!r} and to {match[2]!r}; renumber one"
            )
        found[number] = Migration(number, match[2], entry.read_text(encoding="utf-8"))
    return [found[number] for number in sorted(found)]


def checksum(migration: Migration) -> str:
    return hashlib.sha256(migration.sql.encode()).hexdigest()


def check(owner: str, migrations: Sequence[Migration]) -> None:
    """Refuse a list that could not be applied the same way everywhere."""
    numbers = [migration.number for migration in migrations]
    if any(number < 1 for number in numbers) or numbers != sorted(set(numbers)):
        raise _bad(f"migrations of {owner!r} are numbered {numbers}; they must rise from 1 or more, each number once")


def missing(owner: str, migrations: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """What is left to do, given what the database says was done: number → (name, checksum)."""
    newest = max(applied, default=0)
    todo: list[Migration] = []
    for migration in migrations:
        done = applied.get(migration.number)
        if done is None:
            if migration.number < newest:
                raise Conflict(
                    f"migration {migration.number:04}_{migration.name} of {owner!r} is missing, but {newest:04} was"
                    " already applied; give it a number above",
                    code="migration_out_of_order",
                    owner=owner,
                    number=migration.number,
                )
            todo.append(migration)
        elif done[1] != checksum(migration):
            raise Conflict(
                f"migration {migration.number:04}_{migration.name} of {owner!r} was changed after it had been applied"
                f" as {done[0]!r}; restore it and write a new one",
                code="migration_changed",
                owner=owner,
                number=migration.number,
            )
    known = {migration.number for migration in migrations}
    ahead = sorted(number for number in applied if number not in known)
    if ahead:
        # An older process beside newer ones, in a rolling update: forward-only steps are written to allow that.
        _log.warning("the schema is ahead of this program", owner=owner, unknown_migrations=ahead)
    return todo


def statements(sql: str) -> Iterator[str]:
    """The single statements of a script; a semicolon inside text, a comment or a trigger's body splits nothing."""
    pending = ""
    for piece in re.split(r"(?<=;)", sql):
        pending += piece
        if piece.endswith(";") and sqlite3.complete_statement(pending):
            if not _empty(pending):
                yield pending.strip()
            pending = ""
    if not _empty(pending):
        yield pending.strip()


def _empty(sql: str) -> bool:
    return not re.sub(r"--[^\n]*|/\*.*?\*/|[\s;]", "", sql, flags=re.DOTALL)


def apply(connection: sqlite3.Connection, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
    """Inside a transaction that holds the write lock: bring `owner` up to date; how many steps that took."""
    connection.execute(TABLE)
    rows = connection.execute("SELECT number, name, checksum FROM dougong_migrations WHERE owner = ?", (owner,))
    todo = missing(owner, migrations, {number: (name, digest) for number, name, digest in rows})
    for migration in todo:
        for statement in statements(migration.sql):
            if re.match(r"(BEGIN|COMMIT|END|ROLLBACK|PRAGMA|VACUUM|ATTACH|DETACH)\b", _code(statement), re.IGNORECASE):
                raise _bad(
                    f"{migration.number:04}_{migration.name} of {owner!r}: {statement!r} does not belong in a migration"
                )
            try:
                connection.execute(statement)
            except sqlite3.Error as error:
                error.add_note(f"in migration {migration.number:04}_{migration.name} of {owner!r}: {statement}")
                raise
        connection.execute(
            "INSERT INTO dougong_migrations VALUES (?, ?, ?, ?, ?)",
            (owner, migration.number, migration.name, checksum(migration), now_us),
        )
    broken = connection.execute("PRAGMA foreign_key_check").fetchone() if todo else None
    if broken is not None:
        raise Conflict(
            f"after the migrations of {owner!r} a row of {broken[0]!r} would refer to a row of {broken[2]!r} that is"
            " not there; nothing was applied",
            code="foreign_key_violated",
            constraint=f"{broken[0]} -> {broken[2]}",
        )
    return len(todo)


def _code(statement: str) -> str:
    return re.sub(r"^(\s|--[^\n]*\n|/\*.*?\*/)+", "", statement, flags=re.DOTALL)


def _bad(message: str) -> Invalid:
    return Invalid(message, code="bad_migrations")
