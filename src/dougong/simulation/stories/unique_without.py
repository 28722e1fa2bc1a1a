"""Unique indexes without one of their safeguards, to see that the story notices."""

from __future__ import annotations

from dougong.shard import Key, UniqueIndex
from dougong.shard.unique import Claims, Entry
from dougong.store import Tx

__all__ = ["CLAIM_S", "KEEP_S", "SAFEGUARDS", "index_without"]

SAFEGUARDS = {
    "claim": "the value is claimed before the row is written",
    "check": "a row is written only under a token that was not revoked",
    "revoke": "a claim whose row is not there is revoked before it is taken over",
    "sweep-revoke": "a claim is revoked before it is swept",
    "one-unit": "the row is looked at and its claim revoked in one unit",
    "repoint-token": "an entry is pointed elsewhere only while it still has the token that was revoked",
    "drop-token": "an entry is dropped only while it still has the token that was revoked",
    "confirm": "readers confirm on the row",
}

CLAIM_S, KEEP_S = 1.0, 3.2
"""In place of 600 and 3,600 s: a story is short. The difference covers what two clocks are apart."""


class _Claims(Claims):
    claim_s = CLAIM_S


class _NoClaim(_Claims):
    async def claim(self, key: Key, value: str) -> int | None:
        return 0


class _NoCheck(_Claims):
    async def _check(self, tx: Tx, token: int) -> None:
        return


class _OnlyLooks(_Claims):
    """Whoever takes over a claim, or sweeps it, looks at the row and leaves it at that."""

    async def _revoke(self, entry: Entry) -> bool:
        return not await self._has(entry)

    async def _has(self, entry: Entry) -> bool:
        store = self.sharded.store_at(await self.sharded.bucket_of(entry.key))
        row = await store.fetch_one(self._value_of, (entry.key,))
        return row is not None and row[0] == entry.value


class _NoRevoke(_OnlyLooks):
    async def drop_orphan(self, entry: Entry) -> bool:
        return await _Claims.drop_orphan(_whole(self), entry)


class _NoSweepRevoke(_Claims):
    async def drop_orphan(self, entry: Entry) -> bool:
        return await _OnlyLooks.drop_orphan(_looking(self), entry)


class _TwoUnits(_OnlyLooks):
    async def _revoke(self, entry: Entry) -> bool:
        if await self._has(entry):
            return False
        bucket = await self.sharded.bucket_of(entry.key)
        sql = "INSERT INTO dougong_unique_revoked VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        row = (entry.token, self.sharded.now_us(), bucket)
        await self.sharded.store_at(bucket).write(lambda tx: tx.execute(sql, row))
        return True


class _NoDropToken(_Claims):
    async def drop_orphan(self, entry: Entry) -> bool:
        if not await self._revoke(entry):
            return False
        sql = "DELETE FROM dougong_unique WHERE value = ?"
        await self.store(entry.value).write(lambda tx: tx.execute(sql, (entry.value,)))
        return True


class _NoRepointToken(_Claims):
    async def _repoint(self, value: str, key: Key, revoked: int, begun_us: int) -> int | None:
        sql = "SELECT token FROM dougong_unique WHERE value = ?"
        while True:
            row = await self.store(value).fetch_one(sql, (value,))
            if row is None:
                return None
            fresh = await super()._repoint(value, key, int(str(row[0])), begun_us)
            if fresh is not None:
                return fresh


class _NoConfirm(_Claims):
    async def find(self, value: str) -> Key | None:
        entry = await self._entry(self.store(value), value)
        return entry.key if entry is not None else None


def _whole(claims: Claims) -> _Claims:
    return _Claims(claims.sharded, claims.name, claims.table, claims.column)


def _looking(claims: Claims) -> _OnlyLooks:
    return _OnlyLooks(claims.sharded, claims.name, claims.table, claims.column)


class Index(UniqueIndex):
    """With short deadlines."""

    claims = _Claims
    keep_s = KEEP_S


def index_without(safeguard: str) -> type[UniqueIndex]:
    """An index that lacks it; the whole one for an empty name."""
    lacking = _CLAIMS.get(safeguard, _Claims)
    return type("Index", (Index,), {"claims": lacking})


_CLAIMS: dict[str, type[Claims]] = {
    "claim": _NoClaim,
    "check": _NoCheck,
    "revoke": _NoRevoke,
    "sweep-revoke": _NoSweepRevoke,
    "one-unit": _TwoUnits,
    "repoint-token": _NoRepointToken,
    "drop-token": _NoDropToken,
    "confirm": _NoConfirm,
}
