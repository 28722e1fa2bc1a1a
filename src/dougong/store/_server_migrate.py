"""Schema steps on servers, under a lock, in order, recorded with their checksums.

PostgreSQL applies all that is missing in one transaction that has the writers' turn. MySQL commits with every DDL
statement, so there each statement is recorded as it is done and an interrupted step is taken up where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dougong.errors import Conflict, Error, Unavailable
from dougong.store._link import Engine, Link
from dougong.store._migrate import NOT_IN_MIGRATIONS, checksum, code_of, misplaced, missing, statements
from dougong.store._placeholders import split
from dougong.store._protocol import Migration
from dougong.telemetry import get_logger

__all__ = ["migrate_at_once", "migrate_stepwise"]

_log = get_logger("dougong.store")

_TABLE = """
CREATE TABLE IF NOT EXISTS dougong_migrations (
    owner VARCHAR(100) NOT NULL,
    number BIGINT NOT NULL,
    name VARCHAR(200) NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    applied_us BIGINT NOT NULL,
    PRIMARY KEY (owner, number)
)
"""
# `applied_us` is 0 and `statements` counts what is done until a step is complete; `checksum` is then that of these.
_TABLE_STEPWISE = """
CREATE TABLE IF NOT EXISTS dougong_migrations (
    owner VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    number BIGINT NOT NULL,
    name VARCHAR(200) NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    applied_us BIGINT NOT NULL,
    statements INT NOT NULL,
    PRIMARY KEY (owner, number)
) ENGINE = InnoDB
"""
_DDL = ("CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE", "GRANT", "REVOKE", "ANALYZE", "OPTIMIZE", "SET")
_ALREADY = frozenset({1007, 1050, 1060, 1061, 1068, 1091, 1051, 1146, 1304, 1359, 1826, 1022})
"""What a DDL statement says that was carried out before: it exists, it does not exist, it was renamed."""


async def migrate_at_once(link: Link, engine: Engine, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
    """All or nothing, in one transaction."""
    dialect = engine.options.dialect
    await link.control(engine.begin)
    await link.control(_TABLE)
    todo = missing(owner, migrations, await _applied(link, owner), dialect)
    for migration in todo:
        sql = migration.sql_for(dialect)
        for statement in split(sql, dialect):
            if NOT_IN_MIGRATIONS.match(code_of(statement)):
                raise misplaced(owner, migration, statement)
            try:
                await link.control(statement)
            except Exception as error:
                raise _named(error, engine, owner, migration, statement) from error
        await link.execute(
            "INSERT INTO dougong_migrations VALUES (?, ?, ?, ?, ?)",
            (owner, migration.number, migration.name, checksum(sql), now_us),
        )
    await link.control("COMMIT")
    return len(todo)


async def migrate_stepwise(link: Link, engine: Engine, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
    """Statement by statement, each recorded; under a lock that outlives commits."""
    dialect, wait_s = engine.options.dialect, max(1, round(engine.options.statement_timeout_s))
    lock = "concat('dougong:', left(sha1(database()), 40))"
    rows = await link.fetch(f"SELECT GET_LOCK({lock}, ?)", (wait_s,))
    if rows != [(1,)]:
        raise Unavailable(
            f"database {engine.options.where}: another process has been migrating it for {wait_s} s; see SHOW"
            " PROCESSLIST",
            code="locked",
            retry_after_s=1.0,
        )
    await link.control(_TABLE_STEPWISE)
    half = await link.fetch(
        "SELECT number, checksum, statements FROM dougong_migrations WHERE owner = ? AND applied_us = 0", (owner,)
    )
    todo = missing(owner, migrations, await _applied(link, owner), dialect)
    for migration in todo:
        sql = migration.sql_for(dialect)
        pieces = list(statements(sql))
        for piece in pieces:
            if NOT_IN_MIGRATIONS.match(code_of(piece)):
                raise misplaced(owner, migration, piece)
        done = 0
        for number, digest, count in half:
            if number == migration.number:
                done = cast(int, count)
                _check_half(owner, migration, pieces, done, cast(str, digest))
        if not done:
            await link.control("START TRANSACTION")
            await link.execute(
                "INSERT INTO dougong_migrations VALUES (?, ?, ?, ?, 0, 0) ON DUPLICATE KEY UPDATE number = number",
                (owner, migration.number, migration.name, _digest([])),
            )
            await link.control("COMMIT")
        resumed = any(number == migration.number for number, _, _ in half)
        for place, piece in enumerate(pieces[done:], done):
            is_ddl = code_of(piece).upper().startswith(_DDL)
            if not is_ddl:
                await link.control(engine.begin)  # the writers' turn, as for any other change
            try:
                await link.control(piece)
            except Exception as error:
                # Whether the first one was carried out before the interruption is known only now.
                if not (resumed and is_ddl and place == done and error.args and error.args[0] in _ALREADY):
                    raise _named(error, engine, owner, migration, piece) from error
                _log.warning("a statement of a migration was there already", owner=owner, statement=piece)
            await link.execute(
                "UPDATE dougong_migrations SET statements = ?, checksum = ? WHERE owner = ? AND number = ?",
                (place + 1, _digest(pieces[: place + 1]), owner, migration.number),
            )
            if not is_ddl:
                await link.control("COMMIT")
        await link.execute(
            "UPDATE dougong_migrations SET applied_us = ?, checksum = ? WHERE owner = ? AND number = ?",
            (now_us, checksum(sql), owner, migration.number),
        )
    return len(todo)


def _check_half(owner: str, migration: Migration, pieces: list[str], done: int, digest: str) -> None:
    if digest == _digest(pieces[:done]):
        return
    raise Conflict(
        f"migration {migration.number:04}_{migration.name} of {owner!r} was interrupted after {done} statements, and"
        " these were changed since: restore them as they were and it goes on after them, or undo them by hand and"
        " delete its row from dougong_migrations",
        code="migration_interrupted",
        owner=owner,
        number=migration.number,
    )


def _digest(pieces: Sequence[str]) -> str:
    return checksum(";\n".join(pieces))


async def _applied(link: Link, owner: str) -> dict[int, tuple[str, str]]:
    rows = await link.fetch(
        "SELECT number, name, checksum FROM dougong_migrations WHERE owner = ? AND applied_us <> 0", (owner,)
    )
    return {cast(int, number): (cast(str, name), cast(str, digest)) for number, name, digest in rows}


def _named(error: Exception, engine: Engine, owner: str, migration: Migration, statement: str) -> Error:
    """The error of a statement, with the step it stands in."""
    return engine.judge(error, f"{migration.number:04}_{migration.name} of {owner!r}: {statement}").fault
