"""The fence in the participant's database: every statement about its tables stands here.

Over many databases the same tables are in each, and a row belongs to the bucket `transaction_id % 128`.

Rows are read and changed by one statement per call. Ids that lie close together are read as a range, which for fresh
ids is one seek past the end of the table instead of one search per row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import cast

import msgspec

from dougong.errors import Conflict
from dougong.shard import BUCKETS
from dougong.store import Row, Tx, Value, execute_with, fetch_with
from dougong.tcc._protocol import BranchState
from dougong.tcc.fence import FenceRow
from dougong.tcc.ids import ids_json, spread

__all__ = ["FORGET_ROWS", "FenceTable", "ShardedFenceTable", "scope_number"]

FORGET_ROWS = 5000
"""Rows deleted in one unit, about: forgetting must not hold up the writer."""

_FILE = "INSERT INTO dougong_fence_pages (scope, sent_us, first_id, transaction_ids) VALUES (?, ?, ?, ?)"
_GAP = 256
"""Ids that end with a byte of their own, as those of transactions over buckets do, are so far apart."""
_decode_ids = msgspec.json.Decoder(list[int]).decode


class FenceTable:
    """Statements over the fence of one database. Methods run inside a unit; nothing is remembered between units."""

    _read = (
        "SELECT transaction_id, state, payload, code, message FROM dougong_fence "
        "WHERE scope = ? AND transaction_id IN ({ids})"
    )
    _settle = "UPDATE dougong_fence SET state = ? WHERE scope = ? AND state = 1 AND transaction_id IN ({ids})"
    _delete = "DELETE FROM dougong_fence WHERE scope = ? AND transaction_id IN ({ids})"
    _insert_tried = "INSERT INTO dougong_fence (scope, transaction_id, state, payload) VALUES (?, ?, 1, ?)"
    _insert_other = (
        "INSERT INTO dougong_fence (scope, transaction_id, state, payload, code, message) VALUES (?, ?, ?, ?, ?, ?)"
    )

    async def scope(self, tx: Tx, participant: str, initiator: str) -> tuple[int, int]:
        """(scope, floor_us) of a pair; made when first seen."""
        find = "SELECT scope, floor_us FROM dougong_fence_scopes WHERE participant = ? AND initiator = ?"
        row = await tx.fetch_one(find, (participant, initiator))
        if row is None:
            await tx.execute(
                "INSERT INTO dougong_fence_scopes (participant, initiator) VALUES (?, ?)", (participant, initiator)
            )
            row = await tx.fetch_one(find, (participant, initiator))
        assert row is not None
        return cast("tuple[int, int]", row)

    async def admit(
        self, tx: Tx, participant: str, initiator: str, sent_us: int, ids: Sequence[int]
    ) -> tuple[int, Collection[int]]:
        """The scope, and those of the transactions that were over before the call was sent."""
        scope, floor_us = await self.scope(tx, participant, initiator)
        return scope, set(ids) if sent_us < floor_us else ()

    async def read(self, tx: Tx, scope: int, ids: Sequence[int]) -> dict[int, FenceRow]:
        """The rows there are, by transaction."""
        low, high, width = spread(ids)
        rows_max = 4 * len(ids)
        rows: list[Row] | None = None
        if width <= rows_max * _GAP:
            rows = await tx.fetch_all(
                "SELECT transaction_id, state, payload, code, message FROM dougong_fence "
                "WHERE scope = ? AND transaction_id BETWEEN ? AND ? LIMIT ?",
                (scope, low, high, rows_max + 1),
            )
            if len(rows) > rows_max:
                rows = None  # too many of others between them
            elif len(rows) > len(ids):
                wanted = set(ids)
                rows = [row for row in rows if row[0] in wanted]
        if rows is None:
            rows = await fetch_with(tx, self._read, ids, (scope,))
        return {row[0]: row[1:] for row in rows}  # type: ignore[misc]

    async def insert(
        self,
        tx: Tx,
        scope: int,
        sent_us: int,
        tried: Sequence[tuple[int, bytes]],
        others: Sequence[tuple[int, BranchState, bytes | None, str | None, str | None]],
    ) -> None:
        """Record new branches: accepted ones, and refused or suspended ones with what was answered."""
        if tried:
            await tx.execute_many(self._insert_tried, [(scope, t, payload) for t, payload in tried])
        if others:
            rows: list[Sequence[Value]] = [(scope, t, int(s), *rest) for t, s, *rest in others]
            await tx.execute_many(self._insert_other, rows)
        ids = [t for t, _ in tried]
        ids += [row[0] for row in others]
        if ids:
            await self._file(tx, scope, sent_us, ids)

    async def settle(self, tx: Tx, scope: int, ids: Sequence[int], to: BranchState) -> None:
        """tried → confirmed or cancelled, all of them or `Conflict`. `ids`: rows that this unit has read."""
        low, high, width = spread(ids)
        alone = width == len(ids)
        if not alone and width <= len(ids) * _GAP:
            row = await tx.fetch_one(
                "SELECT count(*) FROM dougong_fence WHERE scope = ? AND transaction_id BETWEEN ? AND ?",
                (scope, low, high),
            )
            alone = row == (len(ids),)  # all of them are there: the caller has read them
        if alone:
            changed = await tx.execute(
                "UPDATE dougong_fence SET state = ? WHERE scope = ? AND transaction_id BETWEEN ? AND ? AND state = 1",
                (int(to), scope, low, high),
            )
        else:
            changed = await execute_with(tx, self._settle, ids, (int(to), scope))
        if changed != len(ids):
            raise Conflict(f"{len(ids) - changed} of {len(ids)} branches changed under this call", code="fence_changed")

    async def forget(self, tx: Tx, scope: int, before_us: int, keep: Sequence[int]) -> tuple[int, bool]:
        """Raise the floor and drop rows filed before it; (rows dropped, whether some are left)."""
        await tx.execute(
            "UPDATE dougong_fence_scopes SET floor_us = ? WHERE scope = ? AND floor_us < ?",
            (before_us, scope, before_us),
        )
        return await self._drop(tx, scope, before_us, keep)

    async def _drop(
        self, tx: Tx, scope: int, before_us: int, keep: Sequence[int], only: str = "", buckets: Sequence[int] = ()
    ) -> tuple[int, bool]:
        pages = await tx.fetch_all(
            "SELECT sent_us, first_id, transaction_ids FROM dougong_fence_pages "  # noqa: S608 (our own constants)
            f"WHERE scope = ? AND sent_us < ? {only} ORDER BY sent_us, first_id LIMIT 500",
            (scope, before_us, *buckets),
        )
        kept, done, drop, files = set(keep), 0, [], []
        again: list[int] = []
        for sent_us, first_id, text in pages:
            ids = _decode_ids(cast(str, text))
            again += [t for t in ids if t in kept]
            drop += [t for t in ids if t not in kept]
            files.append((scope, sent_us, first_id))
            done += 1
            if len(drop) >= FORGET_ROWS:
                break
        await execute_with(tx, self._delete, drop, (scope,))
        if files:
            await tx.execute_many(
                "DELETE FROM dougong_fence_pages WHERE scope = ? AND sent_us = ? AND first_id = ?", files
            )
        if again:  # filed anew under the floor's own time, so that a later call finds them
            await self._file(tx, scope, before_us, again)
        return len(drop), done < len(pages) or len(pages) == 500

    async def _file(self, tx: Tx, scope: int, sent_us: int, ids: Sequence[int]) -> None:
        await tx.execute(_FILE, (scope, sent_us, ids[0], ids_json(ids)))


class ShardedFenceTable(FenceTable):
    """The fence in many databases, movable bucket by bucket: nothing in a row says in which database it is."""

    async def scope(self, tx: Tx, participant: str, initiator: str) -> tuple[int, int]:
        """A scope's number is a hash of both names, and so the same in all databases; floors are kept per bucket."""
        return scope_number(participant, initiator), 0

    async def admit(
        self, tx: Tx, participant: str, initiator: str, sent_us: int, ids: Sequence[int]
    ) -> tuple[int, Collection[int]]:
        scope = scope_number(participant, initiator)
        rows = await tx.fetch_all(
            "SELECT bucket FROM dougong_fence_floors WHERE scope = ? AND floor_us > ?", (scope, sent_us)
        )
        late = {row[0] for row in rows}
        return scope, {t for t in ids if t % BUCKETS in late} if late else ()

    async def forget_buckets(
        self, tx: Tx, participant: str, initiator: str, before_us: int, keep: Sequence[int], buckets: Sequence[int]
    ) -> tuple[int, bool]:
        """As `forget`, for the rows of some buckets; what else may lie there is not ours (yet, or any more)."""
        scope = scope_number(participant, initiator)
        rows = await tx.fetch_all("SELECT bucket, floor_us FROM dougong_fence_floors WHERE scope = ?", (scope,))
        floors = dict(cast("list[tuple[int, int]]", rows))
        new = [(scope, bucket, participant, initiator, before_us) for bucket in buckets if bucket not in floors]
        higher = [(before_us, scope, bucket) for bucket in buckets if floors.get(bucket, before_us) < before_us]
        await tx.execute_many(
            "INSERT INTO dougong_fence_floors (scope, bucket, participant, initiator, floor_us) VALUES (?, ?, ?, ?, ?)",
            new,
        )
        await tx.execute_many("UPDATE dougong_fence_floors SET floor_us = ? WHERE scope = ? AND bucket = ?", higher)
        marks = ", ".join("?" * len(buckets))
        return await self._drop(tx, scope, before_us, keep, f"AND first_id % {BUCKETS} IN ({marks})", buckets)

    async def _file(self, tx: Tx, scope: int, sent_us: int, ids: Sequence[int]) -> None:
        """A page per bucket, so that pages move with their rows."""
        pages: dict[int, list[int]] = {}
        for transaction in ids:
            pages.setdefault(transaction % BUCKETS, []).append(transaction)
        await tx.execute_many(_FILE, [(scope, sent_us, page[0], ids_json(page)) for page in pages.values()])


def scope_number(participant: str, initiator: str) -> int:
    """The number of a scope over many databases: 63 bits, the same in each of them."""
    digest = blake2b(f"{participant}\0{initiator}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
