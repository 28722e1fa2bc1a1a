"""`DAO[T, ID]`: the few operations nearly every table needs, typed by its entity and its key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Generic, cast

import msgspec
from typing_extensions import TypeVar

from dougong.dao._databases import OWNED, Databases, Divided
from dougong.dao._entity import Entity
from dougong.dao._page import Directions, Page, decode_cursor, encode_cursor, keyset_parameters
from dougong.dao._rows import Rows
from dougong.dao._shape import Shape, shape_of
from dougong.dao._statements import Statements
from dougong.dao._where import Condition, Order, column_named, padded, parse, to_value
from dougong.errors import Conflict, Invalid, NotFound
from dougong.store import Row, Store, Tx, Value

__all__ = ["DAO"]

T = TypeVar("T", bound=Entity)
ID = TypeVar("ID", default=int)
R = TypeVar("R")

KEYS_PER_QUERY = 512
PAGE_MAX = 1000

_statements: dict[tuple[type[Entity], str], Statements] = {}


class DAO(Generic[T, ID]):
    """Reads and writes one entity, in one store or in the many of a sharded one (see `Divided`).

        users = DAO(User, store)                             # DAO[User, int]; DAO[Tag, str] is said by annotation
        await users.create(User(1, "ada@example.org"))
        user = await users.get(1)                            # User | None

    Every operation takes `tx=` to be part of a unit; without it, a write is a unit of its own (durable when it returns)
    and a read sees what is committed. Raises what the store raises; a `Conflict` names the constraint, and errors name
    entity and field, in `fields`.
    """

    def __init__(self, entity: type[T], store: Store | Divided) -> None:
        self._entity = entity
        self._shape: Shape = shape_of(entity)
        shape, bucket = self._shape, self._shape.bucket.name if self._shape.bucket is not None else ""
        self._only: Store | None = None
        self._many: Databases | None = None
        if getattr(store, "divided", None) is not None:
            self._many = cast(Divided, store).divided(shape.table, shape.key.name, bucket)
        else:
            self._only = cast(Store, store)
        known = _statements.get((entity, store.dialect))
        if known is None:
            known = _statements[entity, store.dialect] = Statements(self._shape, store.dialect)
        self._sql = known
        self._rows = Rows(entity, self._shape)
        names = [column.name for column in self._shape.columns]
        self._key_at = names.index(self._shape.key.name)
        self._version_at = names.index(self._shape.version.name) if self._shape.version is not None else -1
        self._bucket_at = names.index(bucket) if bucket and self._many is not None else -1
        self._key_name = self._shape.key.name
        self._held = self._shape.key.store

    async def create(self, entity: T, *, tx: Tx | None = None) -> None:
        """Insert; `Conflict` (code `unique_violated`) when the key or another unique value is taken."""
        row = await self._row(entity)
        await self._write(row[self._key_at], tx, lambda tx: tx.execute(self._sql.insert, row))

    async def create_many(self, entities: Iterable[T], *, tx: Tx | None = None) -> int:
        """Insert; how many. All or none in each database: one of several may fail, and is then raised, alone."""
        rows = [await self._row(entity) for entity in entities]
        if tx is not None:
            return await self._named(tx.execute_many(self._sql.insert, rows))
        if not rows:
            return 0
        if self._many is None:
            return await self._named(self._store().write(lambda tx: tx.execute_many(self._sql.insert, rows)))

        async def unit(tx: Tx, some: list[int]) -> int:
            return await tx.execute_many(self._sql.insert, [rows[place] for place in some])

        return sum(await self._named(self._many.write_many([row[self._key_at] for row in rows], unit)))

    async def get(self, key: ID, *, tx: Tx | None = None) -> T | None:
        """The entity with this key, or None."""
        try:
            value = self._held(key)
        except (TypeError, ValueError):
            value = self._key(key)  # which says what is wrong
        source = tx or self._only or self._store(value)
        row = await source.fetch_one(self._sql.get, (value,))
        return self._rows.load(row) if row is not None else None

    async def need(self, key: ID, *, tx: Tx | None = None) -> T:
        """The entity with this key, or `NotFound` naming it."""
        found = await self.get(key, tx=tx)
        if found is None:
            raise self._not_found(key)
        return found

    async def get_many(self, keys: Iterable[ID], *, tx: Tx | None = None) -> dict[ID, T]:
        """Those of the keys that exist, in one query per 512 and database."""
        values = [self._key(key) for key in dict.fromkeys(keys)]
        if not values:
            return {}
        if self._many is not None and tx is None:

            async def unit(tx: Tx, some: list[int]) -> list[Row]:
                return await self._get_rows(tx, [values[place] for place in some])

            pages = await self._many.read_many(values, unit)
        else:
            pages = [await self._get_rows(tx or self._store(), values)]
        found: dict[ID, T] = {}
        for rows in pages:
            for row in rows:
                entity = self._rows.load(row)
                found[getattr(entity, self._key_name)] = entity
        return found

    async def _get_rows(self, source: Tx | Store, keys: list[Value]) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(keys), KEYS_PER_QUERY):
            values = padded(keys[start : start + KEYS_PER_QUERY])
            rows += await source.fetch_all(self._sql.get_many(len(values)), values)
        return rows

    async def find(
        self,
        *where: Condition,
        order: Sequence[Order] = (),
        after: str | None = None,
        limit: int = 100,
        scatter: bool = False,
        tx: Tx | None = None,
    ) -> Page[T]:
        """One page of what fulfils all conditions.

            page = await users.find(column(User.age).at_least(18), order=[column(User.joined).descending], limit=20)

        The key is always the last to order, so the order is total and pages neither repeat nor skip rows that stay.
        Columns that may be None, and those held as text that sorts otherwise, cannot order. `after` is the last page's
        cursor, `limit` is 1 to 1000. Over several databases (`scatter`) each is asked for a page, and they are merged.
        """
        if not 1 <= limit <= PAGE_MAX:
            raise self._invalid(f"limit must be 1 to {PAGE_MAX}, not {limit}", "bad_limit")
        total = self._total_order(order)
        words = [self._shape.table, *(("-" if down else "") + name for name, down in total)]
        parts, parameters = parse(self._entity, self._shape, where)
        if after is not None:
            held = [self._shape.by_name[name].held for name, _ in total]
            parameters += keyset_parameters(total, decode_cursor(words, held, after))
        parameters.append(limit + 1)
        owned = self._owned(tx)
        sql = self._sql.find(parts, total, after=after is not None, owned=owned)
        pages = await self._ask(tx, scatter, sql, lambda source, sql: source.fetch_all(sql, parameters))
        places = [list(self._shape.by_name).index(name) for name, _ in total]
        rows = pages[0] if len(pages) == 1 else _merged(pages, places, [down for _, down in total])
        cursor: str | None = None
        if len(rows) > limit:
            del rows[limit:]
            cursor = encode_cursor(words, [rows[-1][place] for place in places])
        return Page([self._rows.load(row) for row in rows], cursor)

    async def stream(
        self,
        *where: Condition,
        order: Sequence[Order] = (),
        page: int = 500,
        scatter: bool = False,
        tx: Tx | None = None,
    ) -> AsyncIterator[T]:
        """Everything that fulfils the conditions, page by page: outside of a unit it is no one snapshot."""
        after: str | None = None
        while True:
            found = await self.find(*where, order=order, after=after, limit=page, scatter=scatter, tx=tx)
            for item in found.items:
                yield item
            if found.after is None:
                return
            after = found.after

    async def count(self, *where: Condition, scatter: bool = False, tx: Tx | None = None) -> int:
        """How many rows fulfil all conditions."""
        parts, parameters = parse(self._entity, self._shape, where)
        sql = self._sql.count(parts, owned=self._owned(tx))
        rows = await self._ask(tx, scatter, sql, lambda source, sql: source.fetch_one(sql, parameters))
        return sum(cast(int, row[0]) for row in rows if row is not None)

    async def update(self, entity: T, *, tx: Tx | None = None) -> T:
        """Write all columns; the entity as it is now stored.

        With a version column: only if the stored version is the entity's, and counted up; else `Conflict` (code
        `stale_version`): read again, then decide. `NotFound` when the row is gone.
        """
        version = self._shape.version
        if self._bucket_at >= 0:
            entity = await self._placed(entity)
        new, old = entity, self._rows.store(entity)
        if version is not None:
            new = msgspec.structs.replace(entity, **{version.name: getattr(entity, version.name) + 1})
        row = self._rows.store(new)
        key = row[self._key_at]
        parameters = [value for place, value in enumerate(row) if place != self._key_at or len(row) == 1]
        parameters.append(key)
        if version is not None:
            parameters.append(old[self._version_at])

        async def unit(tx: Tx) -> None:
            if await tx.execute(self._sql.update, parameters):
                return
            if version is None or await tx.fetch_one(self._sql.exists, (key,)) is None:
                raise self._not_found(getattr(entity, self._key_name))
            raise Conflict(
                f"{self._shape.name} {getattr(entity, self._key_name)!r} is no longer at version"
                f" {old[self._version_at]!r}; read it again",
                code="stale_version",
                entity=self._shape.name,
                field=version.name,
                constraint=f"{self._shape.table}.{version.name}",
            )

        await self._write(key, tx, unit)
        return new

    async def upsert(self, entity: T, *, tx: Tx | None = None) -> None:
        """Overwrite the row with this key whatever its version (which is counted up), or insert it.

        `Conflict` when another row has a unique value of it. Two statements, and the same on every engine: what MySQL
        offers for it would overwrite that other row.
        """
        row = await self._row(entity)
        key = row[self._key_at]
        kept = {self._key_at, self._version_at} if len(row) > 1 else set[int]()
        parameters = [*(value for place, value in enumerate(row) if place not in kept), key]

        async def unit(tx: Tx) -> None:
            if not await tx.execute(self._sql.overwrite, parameters):
                await tx.execute(self._sql.insert, row)

        await self._write(key, tx, unit)

    async def delete(self, key: ID, *, tx: Tx | None = None) -> bool:
        """Remove; whether it was there."""
        value = self._key(key)
        return await self._write(value, tx, lambda tx: tx.execute(self._sql.delete, (value,))) > 0

    async def _write(self, key: Value, tx: Tx | None, unit: Callable[[Tx], Awaitable[R]]) -> R:
        if tx is not None:
            return await self._named(unit(tx))
        return await self._named((self._only or self._store(key)).write(unit))

    async def _named(self, writing: Awaitable[R]) -> R:
        """Conflicts as the entity's declaration calls them, on every engine."""
        try:
            return await writing
        except Conflict as conflict:
            known = self._shape.unique.get(cast(str, conflict.fields.get("constraint", "")))
            if known is not None:
                conflict.fields["constraint"], conflict.fields["field"] = known
            conflict.fields.setdefault("entity", self._shape.name)
            raise

    async def _ask(
        self, tx: Tx | None, scatter: bool, sql: str, question: Callable[[Tx | Store, str], Awaitable[R]]
    ) -> list[R]:
        """The answers of the one database there is, or of all."""
        if tx is not None:
            if scatter:
                raise self._invalid("a unit sees its own database only; leave scatter=True or tx= out", "bad_scatter")
            return [await question(tx, sql)]
        if self._many is None:
            return [await question(self._store(), sql)]
        if not scatter:
            raise self._invalid("its rows are in several databases; say scatter=True to ask all of them", "no_scatter")
        return await self._many.ask_all(lambda store, owned: question(store, sql.replace(OWNED, owned)))

    def _owned(self, tx: Tx | None) -> str:
        """What tells a database's own rows from those that a move has left there, or not yet handed over."""
        return self._many.bucket_sql if self._many is not None and tx is None else ""

    def _store(self, key: Value = None) -> Store:
        if self._many is not None:
            return self._many.store_of(key)
        assert self._only is not None  # one of the two is there
        return self._only

    async def _row(self, entity: T) -> list[Value]:
        row = self._rows.store(entity)
        if self._bucket_at >= 0 and self._many is not None:
            row[self._bucket_at] = await self._many.bucket_of(row[self._key_at])
        return row

    async def _placed(self, entity: T) -> T:
        """The entity with its bucket in it."""
        assert self._shape.bucket is not None  # who calls this has looked
        row = await self._row(entity)
        return msgspec.structs.replace(entity, **{self._shape.bucket.name: row[self._bucket_at]})

    def _key(self, key: ID) -> Value:
        return to_value(self._shape, self._shape.key, key)

    def _not_found(self, key: ID) -> NotFound:
        name = self._shape.name
        return NotFound(f"there is no {name} {key!r}", entity=name, field=self._key_name, key=str(key))

    def _invalid(self, message: str, code: str) -> Invalid:
        return Invalid(f"{self._shape.name}: {message}", code=code, entity=self._shape.name)

    def _total_order(self, order: Sequence[Order]) -> Directions:
        total: dict[str, bool] = {}
        for asked in order:
            column = column_named(self._entity, self._shape, asked)
            if column.nullable or not column.ordered:
                raise self._invalid(
                    f"{column.name} may be None, or is held as text that sorts otherwise: it cannot order", "bad_order"
                )
            total.setdefault(column.name, asked.down)
        total.setdefault(self._key_name, bool(total) and list(total.values())[-1])
        return tuple(total.items())


def _merged(pages: list[list[Row]], places: list[int], downs: list[bool]) -> list[Row]:
    """The rows of all pages in order, by the values as they are held: those sort here as in the database."""
    rows = [row for page in pages for row in page]
    for place, down in reversed(list(zip(places, downs, strict=True))):
        rows.sort(key=cast(Any, itemgetter(place)), reverse=down)
    return rows
