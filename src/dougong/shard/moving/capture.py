"""Which keys of a moving bucket change: noted by triggers, in the transaction that changes them, deletes included.

A note is the key and no more; what the row is by now is read when the note is worked off. So the order of notes does
not matter, and one that is worked off twice does no harm. Triggers stay once they were made: while a bucket does not
move they find that out with one look at its owner's row.
"""

from __future__ import annotations

from zlib import crc32

from dougong.shard.buckets import BucketState
from dougong.shard.moving.shapes import Shape
from dougong.store import Migration

__all__ = ["capture_migrations", "capture_owner", "notes_table"]

_SHORT = 40
_MOVING = BucketState.MOVING.value


def notes_table(table: str) -> str:
    """Where the changed keys of a table are noted: `dougong_seq`, `dougong_bucket`, and the key's columns."""
    return (
        f"dougong_notes_{table}" if len(table) <= _SHORT else f"dougong_notes_{table[:30]}_{crc32(table.encode()):08x}"
    )


def capture_owner(shape: Shape) -> str:
    """Under which name its migrations are recorded."""
    return f"dougong.shard.notes/{shape.table}"


def capture_migrations(shape: Shape) -> list[Migration]:
    """The table and the triggers, on every engine."""
    return [
        Migration(1, "notes", "", {dialect: make(shape) for dialect, make in _TABLES.items()}),
        *(
            Migration(
                number, f"note_{event}", "", {dialect: make(shape, event, rows) for dialect, make in _TRIGGERS.items()}
            )
            for number, (event, rows) in enumerate(_EVENTS.items(), 2)
        ),
    ]


_EVENTS = {"insert": ("NEW",), "update": ("OLD", "NEW"), "delete": ("OLD",)}


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
        f" dougong_bucket SMALLINT NOT NULL) AS {taken}"
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


def _trigger(shape: Shape, event: str) -> str:
    return f"dougong_{event}_{crc32(shape.table.encode()):08x}"


def _sqlite_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    return (
        f"CREATE TRIGGER {_trigger(shape, event)} AFTER {event.upper()} ON {shape.table}"
        f" BEGIN {_note(shape, rows)}; END"
    )


def _mysql_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    return (
        f"CREATE TRIGGER {_trigger(shape, event)} AFTER {event.upper()} ON {shape.table} FOR EACH ROW"
        f" {_note(shape, rows)}"
    )


def _postgresql_trigger(shape: Shape, event: str, rows: tuple[str, ...]) -> str:
    name = _trigger(shape, event)
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $note$ BEGIN {_note(shape, rows)};"
        f" RETURN NULL; END $note$;"
        f" CREATE TRIGGER {name} AFTER {event.upper()} ON {shape.table} FOR EACH ROW EXECUTE FUNCTION {name}();"
    )


_TABLES = {"sqlite": _sqlite_table, "mysql": _mysql_table, "postgresql": _postgresql_table}
_TRIGGERS = {"sqlite": _sqlite_trigger, "mysql": _mysql_trigger, "postgresql": _postgresql_trigger}
