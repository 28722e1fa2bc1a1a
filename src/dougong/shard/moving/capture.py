"""Which keys of a moving bucket change: noted by triggers, in the transaction that changes them, deletes included.

A note is the key and no more; what the row is by now is read when the note is worked off. So the order of notes does
not matter, and one that is worked off twice does no harm. Triggers are there while a move needs them (`triggers`): in
a bucket that does not move they find that out with one look at its owner's row. The tables of the notes stay, empty.

To make or drop a trigger a server needs its table for itself, and who wants to write waits behind that. So it waits
only for a moment, and is tried again later.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from dougong.errors import Conflict, Unavailable
from dougong.shard.buckets import BucketState
from dougong.shard.moving.shapes import EVENTS, Shape, tables_in, trigger_name, triggers_of
from dougong.store import Migration, Store

__all__ = ["make_notes", "make_triggers", "notes_table", "remove_triggers"]

_SHORT = 40
_MOVING = BucketState.MOVING.value
_ROWS = {"insert": ("NEW",), "update": ("OLD", "NEW"), "delete": ("OLD",)}
_STEPS = len(EVENTS) + 1
_WAIT_MS = 300
"""For a table that others use; MySQL counts in seconds, so there it is one."""
_LOCKED = frozenset({"locked", "statement_timeout"})


def notes_table(table: str) -> str:
    """Where the changed keys of a table are noted: `dougong_seq`, `dougong_bucket`, and the key's columns."""
    return (
        f"dougong_notes_{table}" if len(table) <= _SHORT else f"dougong_notes_{table[:30]}_{crc32(table.encode()):08x}"
    )


async def make_notes(store: Store, shapes: Sequence[Shape]) -> None:
    """The tables in which notes are taken, where they are missing."""
    there = await tables_in(store)
    for shape in shapes:
        if notes_table(shape.table) in there:  # a connection less
            continue
        steps = [Migration(1, "notes", "", {dialect: make(shape) for dialect, make in _TABLES.items()})]
        await store.migrate(f"dougong.shard.notes/{shape.table}", steps)


async def make_triggers(store: Store, shapes: Sequence[Shape], number: int) -> bool:
    """Have notes taken, with triggers of this number; False when the database is beyond it, or somebody dropped them.

    `Unavailable` (code `table_busy`) when somebody holds a table for long.
    """
    await make_notes(store, shapes)
    for shape in shapes:
        if not await _migrate(store, shape.table, _made(shape, number)):
            return False
        expected = {trigger_name(shape.table, event) for event in EVENTS}
        if not expected <= {name.lower() for name in await triggers_of(store, shape.table)}:
            return False
    return True


async def remove_triggers(store: Store, tables: Sequence[str], number: int) -> None:
    """Take those of this number away; where there are later ones, nothing happens. Raises as `make_triggers`."""
    for table in tables:
        await _migrate(store, table, [_removed(table, number)])


async def _migrate(store: Store, table: str, steps: list[Migration]) -> bool:
    try:
        await store.migrate(f"dougong.shard.triggers/{table}", steps)
    except Conflict as late:
        if late.code == "migration_out_of_order":
            return False
        raise
    except Unavailable as error:
        if error.code in _LOCKED:  # not the database's fault, so its breaker must not count it
            raise Unavailable(
                f"table {table} of {store.name} is in use by a transaction that does not end, so its triggers cannot be"
                f" made or dropped; it is tried again ({error})",
                code="table_busy",
                retry_after_s=1.0,
            ) from error
        raise
    return True


def _made(shape: Shape, number: int) -> list[Migration]:
    """The steps of a number: first those before are removed, in case nobody did."""
    return [
        _removed(shape.table, number - 1),
        *(
            Migration(
                (number - 1) * _STEPS + at,
                f"note_{event}",
                "",
                {dialect: make(shape, event, _ROWS[event]) for dialect, make in _TRIGGERS.items()},
            )
            for at, event in enumerate(EVENTS, 2)
        ),
    ]


def _removed(table: str, number: int) -> Migration:
    names = [trigger_name(table, event) for event in EVENTS]
    drops = {
        "sqlite": [f"DROP TRIGGER IF EXISTS {name};" for name in names],
        "mysql": [_MYSQL_WAIT, *(f"{_MARIADB_WAIT} DROP TRIGGER IF EXISTS {name};" for name in names)],
        "postgresql": [
            _POSTGRESQL_WAIT,
            *(f"DROP TRIGGER IF EXISTS {name} ON {table}; DROP FUNCTION IF EXISTS {name}();" for name in names),
        ],
    }
    return Migration(number * _STEPS + 1, "no_notes", "", {dialect: " ".join(drop) for dialect, drop in drops.items()})


_MYSQL_WAIT = "SET SESSION lock_wait_timeout = 1;"
_MARIADB_WAIT = f"/*M! SET STATEMENT max_statement_time = {_WAIT_MS / 1000} FOR */"
_POSTGRESQL_WAIT = f"SET LOCAL lock_timeout = {_WAIT_MS};"


def _columns(shape: Shape, row: str = "") -> str:
    return ", ".join(f'{row}."{column}"' if row else f'"{column}"' for column in shape.key)


def _sqlite_table(shape: Shape) -> str:
    # Columns without a type keep every value as it is.
    return (
        f"CREATE TABLE {notes_table(shape.table)} (dougong_seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        f" dougong_bucket INTEGER NOT NULL,"
        f" {_columns(shape)})"
    )


def _mysql_table(shape: Shape) -> str:
    taken = f"SELECT {_columns(shape)} FROM {shape.table} WHERE 1 = 0"  # noqa: S608 (names of the schema)
    return (
        f"CREATE TABLE {notes_table(shape.table)} (dougong_seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,"
        f" dougong_bucket SMALLINT NOT NULL DEFAULT 0) AS {taken}"
    )


def _postgresql_table(shape: Shape) -> str:
    name = notes_table(shape.table)
    return (
        f"CREATE TABLE {name} AS SELECT {_columns(shape)} FROM {shape.table} WITH NO DATA;"  # noqa: S608 (as above)
        f" ALTER TABLE {name} ADD COLUMN dougong_seq BIGSERIAL PRIMARY KEY,"
        " ADD COLUMN dougong_bucket SMALLINT NOT NULL;"
    )


def _note(shape: Shape, rows: tuple[str, ...]) -> str:
    looks = " UNION ".join(
        f"SELECT bucket, {_columns(shape, row)} FROM dougong_bucket_owner"  # noqa: S608 (as above)
        f" WHERE bucket = {row}.{shape.bucket_of}{shape.modulo} AND state = '{_MOVING}'"
        for row in rows
    )
    return f"INSERT INTO {notes_table(shape.table)} (dougong_bucket, {_columns(shape)}) {looks}"


def _sqlite_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    return (
        f"CREATE TRIGGER {trigger_name(shape.table, event)} AFTER {event.upper()} ON {shape.table}"
        f" BEGIN {_note(shape, rows)}; END"
    )


def _mysql_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    return (
        f"{_MYSQL_WAIT} {_MARIADB_WAIT}"
        f" CREATE TRIGGER {trigger_name(shape.table, event)} AFTER {event.upper()} ON {shape.table} FOR EACH ROW"
        f" {_note(shape, rows)}"
    )


def _postgresql_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    name = trigger_name(shape.table, event)
    return (
        f"{_POSTGRESQL_WAIT} CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $note$"
        f" BEGIN {_note(shape, rows)}; RETURN NULL; END $note$;"
        f" CREATE TRIGGER {name} AFTER {event.upper()} ON {shape.table} FOR EACH ROW EXECUTE FUNCTION {name}();"
    )


_TABLES = {"sqlite": _sqlite_table, "mysql": _mysql_table, "postgresql": _postgresql_table}
_TRIGGERS = {"sqlite": _sqlite_trigger, "mysql": _mysql_trigger, "postgresql": _postgresql_trigger}
