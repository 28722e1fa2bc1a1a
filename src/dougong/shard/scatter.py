"""Questions to many databases: sent side by side, each answer checked against the map, merged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from dougong.errors import Error, Invalid, NotFound
from dougong.shard.buckets import Key, StaleEpoch
from dougong.shard.cursor import read_cursor, write_cursor
from dougong.shard.databases import side_by_side
from dougong.shard.merging import merge_rows, merge_totals
from dougong.shard.owners import require
from dougong.shard.query import IN_MAX, Query, RowsPlan, ShardedTable, plan_of
from dougong.shard.routing import ModuloRouting
from dougong.shard.sharded import AT_ONCE, ShardedStore
from dougong.store import Row, Store

__all__ = ["Answer", "ask", "check_bucket", "lookup", "spread"]

R = TypeVar("R")

ROWS_MAX = 100_000
"""Rows that all databases together may send for one question."""
KEYS_MAX = 10_000
"""Keys of one lookup."""


class Answer(msgspec.Struct, frozen=True):
    """Merged rows, each the selected columns."""

    rows: list[Row]
    after: str | None = None
    """Cursor of the next page; None on the last one, and when something is missing from this one."""
    failed: dict[str, Error] = {}
    """Database → why it is missing. Only where the caller said `partial=True`."""


async def ask(
    sharded: ShardedStore,
    query: Query,
    *,
    key: Key | None = None,
    scatter: bool = False,
    after: str | None = None,
    partial: bool = False,
    at_once: int = AT_ONCE,
) -> Answer:
    """Answer a query: of the rows in one key's bucket, or with `scatter=True` of all.

    At most `at_once` databases work on it side by side. A database that fails, fails the whole; with `partial=True` it
    is left out and named instead. The databases' answers are no one snapshot: each is true of its own moment.

    Raises `Invalid`, code `unmergeable` for what cannot be merged, `scatter_refused` when neither a key nor scatter is
    given, `too_many_rows`, `bad_cursor`; else what the databases raise.
    """
    if (key is None) != scatter:
        raise Invalid(
            f"a query of {query.table.name} names the key it is about, or says scatter=True to ask all databases",
            code="scatter_refused",
        )
    check_bucket(sharded, query.table)
    cursor = read_cursor(sharded.maps.cursor_key, query, after) if after is not None else None
    if cursor is not None and cursor.version > sharded.map.version:
        await sharded.refresh()
    plan = plan_of(query, cursor.after if cursor is not None else None)
    only = None if key is None else [await sharded.bucket_of(key, new=False)]
    databases = len(sharded.owners) if only is None else 1
    if isinstance(plan, RowsPlan) and plan.wanted * databases > ROWS_MAX:
        raise Invalid(
            f"offset + limit of {plan.wanted - 1} in {databases} databases are more than {ROWS_MAX} rows; go on with a"
            " cursor instead of an offset",
            code="too_many_rows",
        )

    if not isinstance(plan, RowsPlan):

        async def totals(store: Store, buckets: Mapping[int, int]) -> list[Row]:
            return await store.fetch_all(_filled(plan.sql, buckets), plan.parameters)

        _, sums, failed = await spread(sharded, only, totals, at_once=at_once, partial=partial)
        return Answer(merge_totals(plan, sums), None, failed)

    asked = plan.share(databases)
    while True:

        async def work(store: Store, buckets: Mapping[int, int], asked: int = asked) -> list[Row]:
            return await store.fetch_all(_filled(plan.sql, buckets, asked), plan.parameters)

        version, answers, failed = await spread(sharded, only, work, at_once=at_once, partial=partial)
        merged = merge_rows(plan, answers, offset=query.offset, limit=query.limit, asked=asked)
        if not merged.short:
            break
        asked = plan.wanted
    if merged.last is None or failed:
        return Answer(merged.rows, None, failed)
    return Answer(merged.rows, write_cursor(sharded.maps.cursor_key, version, query, merged.last))


async def lookup(
    sharded: ShardedStore, table: ShardedTable, keys: Iterable[Key], select: Sequence[str], *, at_once: int = AT_ONCE
) -> dict[Key, Row]:
    """A join by lookup: the rows with these keys, asked for in one query per 512 keys of a database.

    Keys without a row are left out. `Invalid` (code `too_many_keys`) for more than 10,000.
    """
    wanted = list(dict.fromkeys(keys))
    if len(wanted) > KEYS_MAX:
        raise Invalid(f"{len(wanted)} keys in one lookup; ask for {KEYS_MAX} at a time", code="too_many_keys")
    if not wanted:
        return {}
    check_bucket(sharded, table)
    by_bucket: dict[int, list[Key]] = {}
    for key in wanted:
        try:
            by_bucket.setdefault(await sharded.bucket_of(key, new=False), []).append(key)
        except NotFound:  # of the key: reading places nothing
            continue

    async def work(store: Store, buckets: Mapping[int, int]) -> list[Row]:
        there = [key for bucket in buckets for key in by_bucket[bucket]]
        rows: list[Row] = []
        for start in range(0, len(there), IN_MAX):
            part = tuple(there[start : start + IN_MAX])
            plan = plan_of(
                Query(table=table, select=(table.key, *select), where=((table.key, "in", part),), limit=len(part))
            )
            rows += await store.fetch_all(_filled(plan.sql, buckets, len(part)), plan.parameters)
        return rows

    _, answers, _ = await spread(sharded, list(by_bucket), work, at_once=at_once, partial=False)
    width = 1 + len(select)
    return {cast("Key", row[0]): row[1:width] for rows in answers.values() for row in rows}


async def spread(
    sharded: ShardedStore,
    only: Sequence[int] | None,
    work: Callable[[Store, Mapping[int, int]], Awaitable[R]],
    *,
    at_once: int,
    partial: bool,
) -> tuple[int, dict[str, R], dict[str, Error]]:
    """`work(store, {bucket: epoch})` in every database that owns buckets (of `only`): under which version, and what.

    All answers are of one map: when a database does not own what that says, all are asked again under the next one.
    """
    until = sharded.clock.monotonic() + sharded.stale_wait_s
    if sharded.dialect == "sqlite":
        at_once = 1  # embedded reads run on the loop: side by side they would only take turns
    while True:
        bucket_map, owners = sharded.map, sharded.owners
        if only is not None:
            owners = {}
            for bucket in only:
                place = bucket_map.places[bucket]
                owners.setdefault(place.shard, {})[bucket] = place.epoch

        async def one(name: str, owners: Mapping[str, Mapping[int, int]] = owners) -> R:
            async def checked(store: Store) -> R:
                result = await work(store, owners[name])
                await require(store, store.name, owners[name])
                return result

            return await sharded.databases.call(name, checked)

        try:
            found, failed = await side_by_side(owners, one, at_once=at_once, partial=partial)
            for error in failed.values():
                if isinstance(error, StaleEpoch):
                    raise error
        except StaleEpoch as stale:
            await sharded.catch_up(stale, [bucket for owned in owners.values() for bucket in owned], until)
        else:
            return bucket_map.version, found, failed


def _filled(sql: str, buckets: Iterable[int], rows: int = 0) -> str:
    return sql.replace("{owned}", ", ".join(map(str, buckets))).replace("{rows}", str(rows))


def check_bucket(sharded: ShardedStore, table: ShardedTable) -> None:
    """`Invalid` (code `no_bucket_column`) when a row of this table does not show its bucket."""
    if not table.bucket and sharded.routing.name != ModuloRouting.name:
        raise Invalid(
            f"with {sharded.routing.name} routing a row does not show its bucket: give table {table.name} a column for"
            " it, filled from bucket_of(key), and name it in ShardedTable",
            code="no_bucket_column",
        )
