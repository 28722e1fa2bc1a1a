"""`DAO[T, ID]`: the few operations nearly every table needs, typed by its entity and its key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from dougong.dao._entity import Entity, Shape, shape_of
from dougong.dao._page import Page, decode_cursor, encode_cursor
from dougong.dao._statements import Order, Statements, keyset_parameters
from dougong.dao._where import Where, column_named, padded, parse, to_value
from dougong.errors import Conflict, Invalid, NotFound
from dougong.store import Row, Store, Tx, Value

__all__ = ["DAO"]

T = TypeVar("T", bound=Entity)
ID = TypeVar("ID")
R = TypeVar("R")

KEYS_PER_QUERY = 512
PAGE_MAX = 1000

_statements: dict[tuple[type[Entity], str], Statements] = {}


class DAO(Generic[T, ID]):
    """Reads and writes one entity in one store.

        users: DAO[User, int] = DAO(User, store)
        await users.create(User(1, "ada@example.org", now))
        user = await users.get(1)                            # User | None

    Every operation takes `tx=` to be part of a unit; without it, a write is a unit of its own (durable when it returns)
    and a read sees what is committed. Raises what the store raises; `Conflict` names the constraint in `fields`.
    """

    def __init__(self, entity: type[T], store: Store) -> None:
        self._entity = entity
        self._store = store
        self._shape: Shape = shape_of(entity)
        known = _statements.get((entity, store.dialect))
        if known is None:
            known = _statements[entity, store.dialect] = Statements(self._shape, store.dialect)
        self._sql = known
        columns = self._shape.columns
        self._stores = [(place, column) for place, column in enumerate(columns) if column.store is not None]
        self._loads = [(place, column.load) for place, column in enumerate(columns) if column.load is not None]
        names = [column.name for column in columns]
        self._key_at = names.index(self._shape.key.name)
        self._version_at = names.index(self._shape.version.name) if self._shape.version is not None else -1

    async def create(self, entity: T, *, tx: Tx | None = None) -> None:
        """Insert; `Conflict` (code `unique_violated`) when the key or another unique value is taken."""
        row = self._row(entity)
        await self._write(tx, lambda tx: tx.execute(self._sql.insert, row))

    async def create_many(self, entities: Iterable[T], *, tx: Tx | None = None) -> int:
        """Insert all or none; how many."""
        rows = [self._row(entity) for entity in entities]
        return await self._write(tx, lambda tx: tx.execute_many(self._sql.insert, rows))

    async def get(self, key: ID, *, tx: Tx | None = None) -> T | None:
        """The entity with this key, or None."""
        row = await (tx or self._store).fetch_one(self._sql.get, (self._key(key),))
        return self._load(row) if row is not None else None

    async def need(self, key: ID, *, tx: Tx | None = None) -> T:
        """The entity with this key, or `NotFound` naming it."""
        found = await self.get(key, tx=tx)
        if found is None:
            raise self._not_found(key)
        return found

    async def get_many(self, keys: Iterable[ID], *, tx: Tx | None = None) -> dict[ID, T]:
        """Those of the keys that exist, in one query per 512."""
        wanted = list(dict.fromkeys(keys))
        found: dict[ID, T] = {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            values = padded(tuple(self._key(key) for key in wanted[start : start + KEYS_PER_QUERY]))
            for row in await (tx or self._store).fetch_all(self._sql.get_many(len(values)), values):
                entity = self._load(row)
                found[cast(ID, getattr(entity, self._shape.key.name))] = entity
        return found

    async def find(
        self,
        where: Where | None = None,
        *,
        order: Sequence[str] = (),
        after: str | None = None,
        limit: int = 100,
        tx: Tx | None = None,
    ) -> Page[T]:
        """One page of what fulfils `where` (see `Where`).

        `order` names columns, `-` before one means descending; the key is always the last, so the order is total and
        pages neither repeat nor skip rows that stay. Nullable columns cannot order. `after` is the last page's cursor.
        `limit` is 1 to 1000.
        """
        if not 1 <= limit <= PAGE_MAX:
            raise Invalid(f"limit must be 1 to {PAGE_MAX}, not {limit}", code="bad_limit", limit=limit)
        total = self._total_order(order)
        words = [("-" if down else "") + name for name, down in total]
        parts, parameters = parse(self._shape, where or {})
        if after is not None:
            parameters += keyset_parameters(total, decode_cursor(words, after))
        sql = self._sql.find(parts, total, after=after is not None)
        rows = await (tx or self._store).fetch_all(sql, (*parameters, limit + 1))
        cursor: str | None = None
        if len(rows) > limit:
            del rows[limit:]
            places = [list(self._shape.by_name).index(name) for name, _ in total]
            cursor = encode_cursor(words, [rows[-1][place] for place in places])
        return Page([self._load(row) for row in rows], cursor)

    async def stream(
        self, where: Where | None = None, *, order: Sequence[str] = (), page: int = 500
    ) -> AsyncIterator[T]:
        """Everything that fulfils `where`, page by page: no one snapshot, and the loop is free between pages."""
        after: str | None = None
        while True:
            found = await self.find(where, order=order, after=after, limit=page)
            for item in found.items:
                yield item
            if found.after is None:
                return
            after = found.after

    async def count(self, where: Where | None = None, *, tx: Tx | None = None) -> int:
        """How many rows fulfil `where`."""
        parts, parameters = parse(self._shape, where or {})
        row = await (tx or self._store).fetch_one(self._sql.count(parts), parameters)
        assert row is not None, "count(*) always has a row"
        return cast(int, row[0])

    async def update(self, entity: T, *, tx: Tx | None = None) -> T:
        """Write all columns; the entity as it is now stored.

        With a version column: only if the stored version is the entity's, and counted up; else `Conflict` (code
        `stale_version`): read again, then decide. `NotFound` when the row is gone.
        """
        return await self._write(tx, lambda tx: self._update(tx, entity))

    async def _update(self, tx: Tx, entity: T) -> T:
        version = self._shape.version
        key = cast(ID, getattr(entity, self._shape.key.name))
        old = self._row(entity)
        new = entity
        if version is not None:
            new = msgspec.structs.replace(entity, **{version.name: getattr(entity, version.name) + 1})
        row = self._row(new)
        parameters = [value for place, value in enumerate(row) if place != self._key_at]
        parameters.append(row[self._key_at])
        if version is not None:
            parameters.append(old[self._version_at])
        if await tx.execute(self._sql.update, parameters):
            return new
        if await tx.fetch_one(self._sql.exists, (row[self._key_at],)) is None:
            raise self._not_found(key)
        if version is None:
            return new  # MySQL counts changed rows only: the row was already like that
        raise Conflict(
            f"{self._shape.name} {key!r} is no longer at version {getattr(entity, version.name)}; read it again",
            code="stale_version",
            constraint=f"{self._shape.table.name}.{version.name}",
        )

    async def upsert(self, entity: T, *, tx: Tx | None = None) -> None:
        """Insert, or overwrite the row with this key whatever its version (which is counted up)."""
        row = self._row(entity)
        await self._write(tx, lambda tx: tx.execute(self._sql.upsert, row))

    async def delete(self, key: ID, *, tx: Tx | None = None) -> bool:
        """Remove; whether it was there."""
        value = self._key(key)
        return await self._write(tx, lambda tx: tx.execute(self._sql.delete, (value,))) > 0

    async def _write(self, tx: Tx | None, unit: Callable[[Tx], Awaitable[R]]) -> R:
        try:
            return await (unit(tx) if tx is not None else self._store.write(unit))
        except Conflict as conflict:
            index = self._shape.unique.get(cast(str, conflict.fields.get("constraint", "")))
            if index is not None:
                conflict.fields["constraint"] = index
            raise

    def _row(self, entity: T) -> list[Value]:
        if type(entity) is not self._entity:
            raise TypeError(f"this DAO stores {self._shape.name}, not {type(entity).__name__}")
        row = list(msgspec.structs.astuple(entity))
        for place, column in self._stores:
            row[place] = to_value(self._shape, column, row[place])
        return row

    def _load(self, row: Row) -> T:
        if not self._loads:
            return self._entity(*row)
        values: list[object] = list(row)
        for place, load in self._loads:
            if values[place] is not None:
                values[place] = load(values[place])
        return self._entity(*values)

    def _key(self, key: ID) -> Value:
        return to_value(self._shape, self._shape.key, key)

    def _not_found(self, key: ID) -> NotFound:
        return NotFound(f"there is no {self._shape.name} {key!r}", entity=self._shape.name, key=str(key))

    def _total_order(self, order: Sequence[str]) -> Order:
        total: list[tuple[str, bool]] = []
        for word in order:
            name, down = word.removeprefix("-"), word.startswith("-")
            column = column_named(self._shape, name)
            if column.nullable:
                raise Invalid(f"{self._shape.name}.{name} may be NULL and cannot order pages", code="unknown_order")
            total.append((name, down))
        key = self._shape.key.name
        if all(name != key for name, _ in total):
            total.append((key, total[-1][1] if total else False))
        return tuple(total)
