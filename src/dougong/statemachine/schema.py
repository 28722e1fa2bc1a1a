"""What a machine needs in the user's table: the statements that add it, and the check that it is there."""

from __future__ import annotations

from dougong.errors import DeadlineExceeded, Error, Invalid, Overloaded, Unavailable
from dougong.statemachine._declare import Declaration
from dougong.store import Store

__all__ = ["check_schema", "schema_sql"]

# An index on the state and the time: a deadline belongs to a state, and one state's waiting rows hide no other's.
_HAS_INDEX = {
    "sqlite": "SELECT 1 FROM pragma_index_list(?) i WHERE (SELECT group_concat(name) FROM (SELECT name FROM "
    "pragma_index_info(i.name) ORDER BY seqno)) LIKE 'state,due_us%'",
    "mysql": "SELECT 1 FROM information_schema.statistics a JOIN information_schema.statistics b "
    "ON b.table_schema = a.table_schema AND b.table_name = a.table_name AND b.index_name = a.index_name "
    "WHERE a.table_schema = DATABASE() AND a.table_name = ? AND a.column_name = 'state' AND a.seq_in_index = 1 "
    "AND b.column_name = 'due_us' AND b.seq_in_index = 2",
    "postgresql": "SELECT 1 FROM pg_indexes WHERE schemaname = current_schema() AND tablename = ? "
    "AND position('(state, due_us' IN indexdef) > 0",
}
_TEXT = {
    "sqlite": "TEXT",
    "mysql": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "postgresql": "VARCHAR(64)",
}


def schema_sql(declaration: Declaration, dialect: str = "sqlite") -> str:
    """All statements, for a table that has none of it yet."""
    if dialect not in _TEXT:
        raise Invalid(f"no dialect {dialect!r}; there are {', '.join(_TEXT)}", code="unknown_dialect")
    return "\n".join((*_columns(declaration, dialect).values(), _index(declaration, dialect)))


async def check_schema(store: Store, declaration: Declaration) -> None:
    """`Invalid` with the statements that are missing."""
    table = declaration.rows
    if not await _has(store, table, declaration.key):
        raise Invalid(
            f"machine {declaration.name!r} stands on table {table!r} with key {declaration.key!r}, which {store.name} "
            f"does not have; migrate it before the machine starts",
            code="table_missing",
        )
    columns = _columns(declaration, store.dialect)
    missing = [statement for column, statement in columns.items() if not await _has(store, table, column)]
    for column in (*declaration.reads, *filter(None, [declaration.updated])):
        if not await _has(store, table, column):
            raise Invalid(
                f"machine {declaration.name!r} names column {column!r}, which table {table!r} does not have",
                code="column_missing",
            )
    if not await store.fetch_all(_HAS_INDEX[store.dialect], (table,)):
        missing.append(_index(declaration, store.dialect))
    if missing:
        raise Invalid(
            f"table {table!r} lacks what machine {declaration.name!r} needs; add to a migration:\n"
            + "\n".join(missing),
            code="schema_missing",
        )


async def _has(store: Store, table: str, column: str) -> bool:
    try:
        await store.fetch_all(f"SELECT {column} FROM {table} WHERE 1 = 0")  # noqa: S608 (declared names)
    except (Unavailable, Overloaded, DeadlineExceeded):
        raise
    except Error:
        return False
    return True


def _columns(declaration: Declaration, dialect: str) -> dict[str, str]:
    table, machine = declaration.rows, declaration.table
    alter = f"ALTER TABLE {table} ADD COLUMN "
    number = "INTEGER" if dialect == "sqlite" else "BIGINT"
    return {
        "state": f"{alter}state {_TEXT[dialect]} NOT NULL DEFAULT '{machine.initial}';",
        "state_version": f"{alter}state_version {number} NOT NULL DEFAULT 0;",
        "definition": f"{alter}definition {number} NOT NULL DEFAULT {machine.version};",
        "due_us": f"{alter}due_us {number};",
    }


def _index(declaration: Declaration, dialect: str) -> str:
    table = declaration.rows
    some = "" if dialect == "mysql" else " WHERE due_us IS NOT NULL"
    return f"CREATE INDEX {table}_due ON {table} (state, due_us){some};"
