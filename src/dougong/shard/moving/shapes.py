"""What the tables that move look like, as the database itself says, and what about them would make a move unsafe."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import cast
from zlib import crc32

import msgspec

from dougong.errors import Invalid
from dougong.store import Row, Store

__all__ = ["EVENTS", "Shape", "check_alike", "read_shapes", "tables_in", "trigger_name", "triggers_of"]

EVENTS = ("insert", "update", "delete")
_BUCKET_SQL = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?: % 128)?)")

# Each: rows that say of one table (its name is the parameter) what the comment says.
_COLUMNS = {  # name, type, 1 when computed by the database
    "sqlite": "SELECT name, upper(type), hidden IN (2, 3) FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid",
    "mysql": "SELECT column_name, upper(column_type), extra LIKE '%GENERATED%' FROM information_schema.columns"
    " WHERE table_schema = database() AND table_name = ? ORDER BY ordinal_position",
    "postgresql": "SELECT attname::text, format_type(atttypid, atttypmod), (attgenerated <> '')::int FROM pg_attribute"
    " WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
}
_UNIQUE = {  # index, 1 for the primary key, column (NULL for an expression), in order
    "sqlite": "SELECT l.name, l.origin = 'pk', i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i"
    ' WHERE l."unique" ORDER BY l.seq, i.seqno',
    "mysql": "SELECT index_name, index_name = 'PRIMARY', column_name FROM information_schema.statistics"
    " WHERE table_schema = database() AND table_name = ? AND non_unique = 0 ORDER BY index_name, seq_in_index",
    "postgresql": "SELECT c.relname::text, i.indisprimary::int, a.attname::text FROM pg_index i"
    " JOIN pg_class c ON c.oid = i.indexrelid CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(n, at)"
    " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n"
    " WHERE i.indrelid = to_regclass(?) AND i.indisunique ORDER BY c.relname, k.at",
}
_SQLITE_KEY = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk"
_FOREIGN = {  # tables it refers to
    "sqlite": 'SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)',
    "mysql": "SELECT DISTINCT referenced_table_name FROM information_schema.key_column_usage"
    " WHERE table_schema = database() AND table_name = ? AND referenced_table_name IS NOT NULL",
    "postgresql": "SELECT confrelid::regclass::text FROM pg_constraint"
    " WHERE contype = 'f' AND conrelid = to_regclass(?)",
}
_TRIGGERS = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?",
    "mysql": "SELECT trigger_name FROM information_schema.triggers"
    " WHERE event_object_schema = database() AND event_object_table = ?",
    "postgresql": "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass(?) AND NOT tgisinternal",
}
_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
    "mysql": "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = database() AND table_type = 'BASE TABLE'",
    "postgresql": "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()",
}


class Shape(msgspec.Struct, frozen=True):
    """One table whose rows belong to buckets."""

    table: str
    bucket_of: str
    """The column that says to which bucket a row belongs..."""
    modulo: str
    """...and what is done with it: nothing, or ` % 128`."""
    columns: tuple[str, ...]
    """All that are written; the database computes others by itself."""
    types: tuple[str, ...]
    key: tuple[str, ...]
    """The primary key, in order."""
    unique: tuple[tuple[str, ...], ...]
    """Columns of other unique indexes."""

    @property
    def key_at(self) -> tuple[int, ...]:
        """Places of the key's columns in a row."""
        return tuple(self.columns.index(column) for column in self.key)


async def read_shapes(store: Store, tables: Mapping[str, str], *, leave: Collection[str] = ()) -> list[Shape]:
    """The shapes of these tables (name → SQL of a row's bucket).

    `Invalid` (code `cannot_move`), saying all that is wrong at once. `leave`: tables without buckets.
    """
    wrong: list[str] = []
    there = await tables_in(store)
    unsaid = sorted(
        name for name in there if name not in tables and name not in leave and not name.startswith("dougong_")
    )
    if unsaid:
        wrong.append(
            f"tables {', '.join(unsaid)} belong to nothing: name their buckets with `ShardedStore.declare`, or leave"
            " them behind by name"
        )
    shapes = []
    for table, bucket_sql in sorted(tables.items()):
        if table in there:
            shape = await _shape(store, table, bucket_sql, wrong)
            if shape is not None:
                shapes.append(shape)
        else:
            wrong.append(f"table {table} is declared and not there: migrate this database first")
    if wrong:
        raise Invalid(f"database {store.name} cannot take part in a move: {'; '.join(wrong)}", code="cannot_move")
    return shapes


def trigger_name(table: str, event: str) -> str:
    """Of the trigger that notes which keys change."""
    return f"dougong_{event}_{crc32(table.encode()):08x}"


async def tables_in(store: Store) -> set[str]:
    """Names of all tables there are."""
    return {cast(str, row[0]) for row in await store.fetch_all(_TABLES[store.dialect])}


async def triggers_of(store: Store, table: str) -> list[str]:
    """Names of the triggers a table has."""
    return [str(row[0]) for row in await _ask(store, _TRIGGERS[store.dialect], table)]


def check_alike(source: Store, target: Store, here: list[Shape], there: list[Shape]) -> None:
    """`Invalid` (code `cannot_move`) unless rows of one fit the other."""
    for ours, theirs in zip(here, there, strict=True):
        if ours != theirs:
            raise Invalid(
                f"table {ours.table} differs: {source.name} has {ours}, {target.name} has {theirs}; bring both to the"
                " same schema first",
                code="cannot_move",
            )


async def _shape(store: Store, table: str, bucket_sql: str, wrong: list[str]) -> Shape | None:
    dialect = store.dialect
    match = _BUCKET_SQL.fullmatch(bucket_sql)
    columns = cast("list[tuple[str, str, int]]", await _ask(store, _COLUMNS[dialect], table))
    indexes: dict[tuple[str, int], list[str | None]] = {}
    for name, primary, column in cast("list[tuple[str, int, str | None]]", await _ask(store, _UNIQUE[dialect], table)):
        indexes.setdefault((name, int(primary)), []).append(column)
    key = next((found for (_, primary), found in indexes.items() if primary), [])
    if dialect == "sqlite":  # an INTEGER PRIMARY KEY is no index
        key = [cast(str, row[0]) for row in await _ask(store, _SQLITE_KEY, table)]
    before = len(wrong)
    if not key:
        wrong.append(f"table {table} has no primary key")
    if match is None or match[1] not in {name for name, _, _ in columns}:
        wrong.append(f"table {table}: {bucket_sql!r} is not one of its columns")
    placing = match[1] if match is not None else ""
    for (name, primary), covered in indexes.items():
        if not primary and placing not in covered:
            wrong.append(
                f"index {name} of table {table} keeps values unique in one database only; rows that move would meet"
                f" others: put {placing} into it, or use a UniqueIndex"
            )
    wrong += [
        f"table {table} has a foreign key to {row[0]!s}, whose rows may come later"
        for row in await _ask(store, _FOREIGN[dialect], table)
    ]
    ours = {trigger_name(table, event) for event in EVENTS}
    wrong += [
        f"trigger {name} of table {table} would run for rows that are only copied"
        for name in await triggers_of(store, table)
        if name.lower() not in ours
    ]
    if len(wrong) > before or match is None:
        return None
    return Shape(
        table,
        match[1],
        match[2],
        tuple(name for name, _, computed in columns if not computed),
        tuple(kind for _, kind, computed in columns if not computed),
        tuple(cast("list[str]", key)),
        tuple(tuple(cast("list[str]", covered)) for (_, primary), covered in sorted(indexes.items()) if not primary),
    )


async def _ask(store: Store, sql: str, table: str) -> list[Row]:
    return await store.fetch_all(sql, (table,))
