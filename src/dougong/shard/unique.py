"""What is unique over all databases: an index whose entries lie by the hash of their value.

Vitess' consistent lookup, with a revocation in the place of its locks: no transaction spans two databases, and no lock
is held while another database is asked.

1. The entry is claimed first, in a unit of its own: value → key, with a token that nobody had before.
2. Then the row is written, in a unit that first makes sure that its token has not been revoked there.

Who finds the value claimed by another key asks that key's database, in one unit: the row has the value (then it is
taken), or the claim's token is revoked, after which that row can never be written under it. Only then the entry is
pointed to the new key. So a crash between 1 and 2 leaves an orphan, and an orphan stands in nobody's way.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import msgspec

from dougong.errors import Conflict, Invalid, Unavailable
from dougong.shard.buckets import Key
from dougong.shard.query import ShardedTable
from dougong.shard.ring import hash_bucket
from dougong.store import Migration, Row, Store, Tx, Unit, Value

__all__ = ["UNIQUE_MIGRATIONS", "UNIQUE_TABLES", "Claims", "Entry", "Placing"]

R = TypeVar("R")

_TABLES = """
CREATE TABLE dougong_unique (index_name {name} NOT NULL, value {text} NOT NULL, key_json VARCHAR(300) NOT NULL,
    token BIGINT NOT NULL, claimed_us BIGINT NOT NULL, bucket SMALLINT NOT NULL, PRIMARY KEY (index_name, value));
CREATE TABLE dougong_unique_revoked (token BIGINT NOT NULL PRIMARY KEY, revoked_us BIGINT NOT NULL,
    bucket SMALLINT NOT NULL);
"""
UNIQUE_MIGRATIONS = [
    Migration(
        1,
        "unique",
        _TABLES.format(name="VARCHAR(60)", text="VARCHAR(255)"),
        {
            "mysql": _TABLES.format(
                # 'a' = 'A' in others. In this one still 'a' = 'a ': such values are refused.
                name="VARCHAR(60)",
                text="VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            )
        },
    )
]
UNIQUE_TABLES = (
    ShardedTable("dougong_unique", "value", "bucket"),
    ShardedTable("dougong_unique_revoked", "token", "bucket"),
)
_FIND = "SELECT key_json, token, claimed_us FROM dougong_unique WHERE index_name = ? AND value = ?"
_FIND_MANY = "SELECT value, key_json FROM dougong_unique WHERE index_name = ? AND value IN"
_CLAIM = "INSERT INTO dougong_unique (index_name, value, key_json, token, claimed_us, bucket) VALUES (?, ?, ?, ?, ?, ?)"
_REPOINT = (
    "UPDATE dougong_unique SET key_json = ?, token = ?, claimed_us = ? WHERE index_name = ? AND value = ? AND token = ?"
)
_DROP = "DELETE FROM dougong_unique WHERE index_name = ? AND value = ? AND token = ?"
_REVOKED = "SELECT 1 FROM dougong_unique_revoked WHERE token = ?"
_REVOKE = "INSERT INTO dougong_unique_revoked (token, revoked_us, bucket) VALUES (?, ?, ?)"

CLAIM_S = 600.0
"""How long a call may take from its beginning to its last unit: the revocations it relies on are kept for longer."""
ATTEMPTS_MAX = 16
"""Lost races for one value in one call; each was won by somebody else."""
VALUE_MAX = 255


class Placing(Protocol):
    """What the index needs of a sharded store."""

    def store_at(self, bucket: int) -> Store:
        """The rows of one bucket."""

    async def bucket_of(self, key: Key) -> int:
        """The bucket of one key."""

    def now_us(self) -> int:
        """UTC."""


class Entry(msgspec.Struct, frozen=True):
    """One claim."""

    value: str
    key: Key
    token: int
    claimed_us: int


class Claims:
    """The protocol, for one column of one table."""

    claim_s = CLAIM_S

    def __init__(self, sharded: Placing, name: str, table: ShardedTable, column: str) -> None:
        self.name = name
        self.sharded = sharded
        self.table = table
        self.column = column
        self._value_of = f"SELECT {column} FROM {table.name} WHERE {table.key} = ?"  # noqa: S608 (the programmer's names)

    async def write(self, key: Key, value: str, unit: Unit[R]) -> R:
        """Run `unit`, which gives the row of `key` this value, once the value is claimed for it.

        `Conflict` (code `unique_violated`) when another row has it; the unit has then not run. What the unit raises
        comes through, and leaves an orphan for the sweeper. After a change the old value's entry is one, too: `release`
        it, or leave it to the sweeper.
        """
        bucket = await self.sharded.bucket_of(key)
        begun_us = self.sharded.now_us()
        for _ in range(ATTEMPTS_MAX):
            token = await self.claim(key, value)
            if token is None:
                continue

            async def checked(tx: Tx, token: int = token) -> R:
                await self._check(tx, token)
                self._still_in_time(begun_us)
                return await unit(tx)

            try:
                return await self.sharded.store_at(bucket).write(checked)
            except _ClaimLost:
                # Revoked, and perhaps still pointing here: nothing can be written under this token any more.
                await self._repoint(value, key, token, begun_us)
        raise Unavailable(f"{self.column} {value!r} is wanted by too many at once; try again", code="unique_contended")

    async def find(self, value: str) -> Key | None:
        """The key of the row that has this value: the entry's, if its row confirms it."""
        entry = await self._entry(self.store(value), value)
        if entry is None:
            return None
        store = self.sharded.store_at(await self.sharded.bucket_of(entry.key))
        row = await store.fetch_one(self._value_of, (entry.key,))
        return entry.key if row is not None and row[0] == value else None

    async def release(self, value: str) -> bool:
        """Drop the entry of a value unless a row has it; whether there is none now."""
        entry = await self._entry(self.store(value), value)
        return entry is None or await self.drop_orphan(entry)

    async def drop_orphan(self, entry: Entry) -> bool:
        """Drop an entry whose row does not have its value; whether that was so."""
        begun_us = self.sharded.now_us()
        if not await self._revoke(entry):
            return False

        async def unit(tx: Tx) -> None:
            self._still_in_time(begun_us)
            await tx.execute(_DROP, (self.name, entry.value, entry.token))

        await self.store(entry.value).write(unit)
        return True

    async def claim(self, key: Key, value: str) -> int | None:
        """Have the value's entry point to `key`: its token, or None when somebody was faster (then claim again).

        `Conflict` when another row has the value.
        """
        if not _is_claimable(value):
            raise Invalid(
                f"{self.column} must have 1 to {VALUE_MAX} characters and no space around them to be unique",
                code="bad_value",
            )
        fresh, now_us, bucket = _token(), self.sharded.now_us(), hash_bucket(value)

        async def unit(tx: Tx) -> Entry | None:
            entry = await self._entry(tx, value)
            if entry is None:
                await tx.execute(_CLAIM, (self.name, value, _json(key), fresh, now_us, bucket))
            return entry

        entry = await self.store(value).write(unit)
        if entry is None:
            return fresh
        if entry.key == key:
            return entry.token  # a repeat, or a call at the same time: they stand and fall together
        if not await self._revoke(entry):
            raise Conflict(
                f"{self.column} {value!r} is taken",
                code="unique_violated",
                constraint=f"{self.table.name}.{self.column}",
            )
        return await self._repoint(value, key, entry.token, now_us)

    async def claim_new(self, tx: Tx, rows: Sequence[tuple[Key, str]]) -> list[tuple[Key, str]]:
        """Within a unit: claim, in one go, what nobody has claimed; the others, which `claim` has to deal with."""
        entries: dict[str, Key] = {}
        values = [value for _, value in rows if _is_claimable(value)]
        for start in range(0, len(values), 500):
            part = values[start : start + 500]
            sql = f"{_FIND_MANY} ({', '.join('?' * len(part))})"
            for value, key in await tx.fetch_all(sql, (self.name, *part)):
                entries[cast(str, value)] = msgspec.json.decode(cast(str, key), type=int | str)
        new: list[tuple[str, str, str, int, int, int]] = []
        left: list[tuple[Key, str]] = []
        now_us = self.sharded.now_us()
        for key, value in rows:
            if value not in entries and _is_claimable(value):
                entries[value] = key
                new.append((self.name, value, _json(key), _token(), now_us, hash_bucket(value)))
            elif entries.get(value) != key:
                left.append((key, value))
        await tx.execute_many(_CLAIM, new)
        return left

    async def _repoint(self, value: str, key: Key, revoked: int, begun_us: int) -> int | None:
        fresh, now_us = _token(), self.sharded.now_us()

        async def unit(tx: Tx) -> int:
            self._still_in_time(begun_us)
            return await tx.execute(_REPOINT, (_json(key), fresh, now_us, self.name, value, revoked))

        return fresh if await self.store(value).write(unit) else None

    async def _check(self, tx: Tx, token: int) -> None:
        """In the unit that writes the row."""
        if await tx.fetch_one(_REVOKED, (token,)) is not None:
            raise _ClaimLost

    async def _revoke(self, entry: Entry) -> bool:
        """In the row's database: False when the row has the value; else it will never be written under this token."""
        bucket = await self.sharded.bucket_of(entry.key)
        now_us = self.sharded.now_us()

        async def unit(tx: Tx) -> bool:
            row = await tx.fetch_one(self._value_of, (entry.key,))
            if row is not None and row[0] == entry.value:
                return False
            if await tx.fetch_one(_REVOKED, (entry.token,)) is None:
                await tx.execute(_REVOKE, (entry.token, now_us, bucket))
            return True

        return await self.sharded.store_at(bucket).write(unit)

    def _still_in_time(self, begun_us: int) -> None:
        if self.sharded.now_us() - begun_us > self.claim_s * 1e6:
            raise Unavailable(
                f"claiming {self.column} took more than {self.claim_s:g} s; try again", code="claim_expired"
            )

    async def _entry(self, reader: Store | Tx, value: str) -> Entry | None:
        row = await reader.fetch_one(_FIND, (self.name, value))
        return entry_of((value, *row)) if row is not None else None

    def store(self, value: str) -> Store:
        """Where the entry of this value is."""
        return self.sharded.store_at(hash_bucket(value))


class _ClaimLost(Conflict):
    def __init__(self) -> None:
        super().__init__("the claim was revoked", code="claim_lost")


def entry_of(row: Row | tuple[Value, ...]) -> Entry:
    """(value, key, token, claimed_us) as stored."""
    value, key, token, claimed_us = row
    decoded = msgspec.json.decode(cast(str, key), type=int | str)
    return Entry(cast(str, value), decoded, cast(int, token), cast(int, claimed_us))


def _is_claimable(value: str) -> bool:
    return 1 <= len(value) <= VALUE_MAX and value == value.strip()


def _json(key: Key) -> str:
    return msgspec.json.encode(key).decode()


def _token() -> int:
    """Never used twice: 62 random bits."""
    return secrets.randbits(62)
