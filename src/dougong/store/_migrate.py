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

__all__ = [
    "NOT_IN_MIGRATIONS",
    "apply",
    "check",
    "checksum",
    "code_of",
    "migrations_from",
    "misplaced",
    "missing",
    "statements",
]

_log = get_logger("dougong.store")

NOT_IN_MIGRATIONS = re.compile(r"(BEGIN|START|COMMIT|END|ROLLBACK|PRAGMA|VACUUM|ATTACH|DETACH|USE)\b", re.IGNORECASE)

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

    `shop.orders.migrations` with `0001_orders.sql` in it gives `[Migration(1, "orders", ...)]`. An engine that needs
    words of its own gets a file beside it: `0001_orders.mysql.sql` (`sqlite`, `mysql`, `postgresql`); where all three
    have one, the plain file is not needed. Other `.sql` names, and a number that comes twice, are refused (`Invalid`,
    code `bad_migrations`): a typo must not skip a step silently.
    """
    names: dict[int, str] = {}
    texts: dict[int, dict[str, str]] = {}
    for entry in sorted(resources.files(package).iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".sql"):
            continue
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)(?:\.(sqlite|mysql|postgresql))?\.sql", entry.name)
        if match is None:
            raise _bad(
                f"{package}: {entry.name!r} is not named like 0001_what_it_does.sql or 0001_what_it_does.mysql.sql"
            )
        number, name, dialect = int(match[1]), match[2], match[3] or ""
        if names.setdefault(number, name) != name:
            raise _bad(f"{package}: number {number:04} belongs to {names[number]!r} and to {name!r}; renumber one")
        texts.setdefault(number, {})[dialect] = entry.read_text(encoding="utf-8")
    return [Migration(number, names[number], texts[number].pop("", ""), texts[number]) for number in sorted(names)]


def checksum(sql: str) -> str:
    """What is recorded of a step, to notice when it is changed afterwards."""
    return hashlib.sha256(sql.encode()).hexdigest()


def check(owner: str, migrations: Sequence[Migration]) -> None:
    """Refuse a list that could not be applied the same way everywhere."""
    numbers = [migration.number for migration in migrations]
    if any(number < 1 for number in numbers) or numbers != sorted(set(numbers)):
        raise _bad(f"migrations of {owner!r} are numbered {numbers}; they must rise from 1 or more, each number once")


def missing(
    owner: str, migrations: Sequence[Migration], applied: dict[int, tuple[str, str]], dialect: str = "sqlite"
) -> list[Migration]:
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
            if not migration.sql_for(dialect):
                raise _bad(
                    f"migration {migration.number:04}_{migration.name} of {owner!r} has no SQL for {dialect}; add"
                    f" {migration.number:04}_{migration.name}.{dialect}.sql"
                )
            todo.append(migration)
        elif done[1] != checksum(migration.sql_for(dialect)):
            raise Conflict(
                f"migration {migration.number:04}_{migration.name} of {owner!r} was changed after it had been applied"
                f" as {done[0]!r}; restore it and write a new one",
                code="migration_changed",
                owner=owner,
                number=migration.number,
            )
    known = {migration.number for migration in migrations}
    first = min(known, default=1)  # a list may begin later: what came before it is not its business any more
    ahead = sorted(number for number in applied if number not in known and number > first)
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
        sql = migration.sql_for("sqlite")
        for statement in statements(sql):
            if NOT_IN_MIGRATIONS.match(code_of(statement)):
                raise misplaced(owner, migration, statement)
            try:
                connection.execute(statement)
            except sqlite3.Error as error:
                error.add_note(f"in migration {migration.number:04}_{migration.name} of {owner!r}: {statement}")
                raise
        connection.execute(
            "INSERT INTO dougong_migrations VALUES (?, ?, ?, ?, ?)",
            (owner, migration.number, migration.name, checksum(sql), now_us),
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


def misplaced(owner: str, migration: Migration, statement: str) -> Invalid:
    """The refusal of a statement that would end the transaction around a step, or belongs to a person."""
    return _bad(f"{migration.number:04}_{migration.name} of {owner!r}: {statement!r} does not belong in a migration")


def code_of(statement: str) -> str:
    """A statement without the comments before it."""
    return re.sub(r"^(\s|--[^\n]*\n|/\*.*?\*/)+", "", statement, flags=re.DOTALL)


def _bad(message: str) -> Invalid:
    return Invalid(message, code="bad_migrations")
