"""Who mints for a shard: one row per shard in a database that all minters reach.

    shard | epoch | holder | renewals | mark_ms | ttl_ms

The epoch rises with every new holder, so that a renewal which arrives late, from one who is no longer it, changes
nothing. The mark is the millisecond up to which ids may have been minted: it is written before they are, it only rises
while somebody holds the shard, and the next holder begins there. So two holders share no id even if both believe in
their lease at once.

No wall clock is compared with another machine's. Whoever waits for a shard watches its row: when that has not changed
for the holder's whole term, by the waiting one's own monotonic clock, the holder has stopped, since it counts its term
from *before* the renewal that was seen.
"""

from __future__ import annotations

from typing import cast

import msgspec

from dougong.store import Migration, Tx

__all__ = ["ID_LEASES", "IdLease", "IdLeases", "Watch"]

ID_LEASES = [
    Migration(
        1,
        "id_leases",
        "CREATE TABLE dougong_id_leases (shard BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, "
        "holder VARCHAR(200) NOT NULL, renewals BIGINT NOT NULL, mark_ms BIGINT NOT NULL, ttl_ms BIGINT NOT NULL)",
    )
]


class IdLease(msgspec.Struct, frozen=True):
    """A row."""

    epoch: int = 0
    holder: str = ""
    """Empty: given back."""
    renewals: int = 0
    mark_ms: int = 0
    """Milliseconds since 2025; nothing was minted from here on."""
    ttl_ms: int = 0


class IdLeases:
    """Statements about the row of one shard. Methods run inside a unit; nothing is remembered between units."""

    def __init__(self, shard: int) -> None:
        self._shard = shard

    async def read(self, tx: Tx) -> IdLease:
        """Who has it. A shard that nobody ever had is as one that was given back."""
        row = await tx.fetch_one(
            "SELECT epoch, holder, renewals, mark_ms, ttl_ms FROM dougong_id_leases WHERE shard = ?", (self._shard,)
        )
        return IdLease(*cast("tuple[int, str, int, int, int]", row)) if row is not None else IdLease()

    async def take(self, tx: Tx, seen: IdLease, holder: str, mark_ms: int, ttl_ms: int) -> IdLease | None:
        """Become the holder of a shard that is still as it was seen; None when it is not."""
        if await self.read(tx) != seen:
            return None
        taken = IdLease(seen.epoch + 1, holder, 0, max(seen.mark_ms, mark_ms), ttl_ms)
        await tx.execute("DELETE FROM dougong_id_leases WHERE shard = ?", (self._shard,))
        await tx.execute(
            "INSERT INTO dougong_id_leases (shard, epoch, holder, renewals, mark_ms, ttl_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (self._shard, taken.epoch, taken.holder, taken.renewals, taken.mark_ms, taken.ttl_ms),
        )
        return taken

    async def renew(self, tx: Tx, epoch: int, mark_ms: int) -> bool:
        """Say that the holder lives, and move its mark; False when it is no longer the holder."""
        changed = await tx.execute(
            "UPDATE dougong_id_leases SET renewals = renewals + 1, "
            "mark_ms = CASE WHEN mark_ms < ? THEN ? ELSE mark_ms END WHERE shard = ? AND epoch = ? AND holder <> ''",
            (mark_ms, mark_ms, self._shard, epoch),
        )
        return changed == 1

    async def release(self, tx: Tx, epoch: int, mark_ms: int) -> None:
        """Give the shard back, the mark lowered to where minting really ended; nothing when somebody else has it."""
        await tx.execute(
            "UPDATE dougong_id_leases SET holder = '', mark_ms = ? WHERE shard = ? AND epoch = ? AND holder <> ''",
            (mark_ms, self._shard, epoch),
        )


class Watch:
    """When a shard may be taken from a holder that has gone silent."""

    def __init__(self) -> None:
        self._seen = IdLease()
        self._since = 0.0

    def wait_s(self, lease: IdLease, holder: str, monotonic: float) -> float:
        """How long its row has still to stay as it is now; 0 when it may be taken at once.

        `holder`: who asks. A row in its own name is a take whose answer was lost: nobody minted by it.
        """
        if lease.holder in {"", holder}:
            return 0.0
        if lease != self._seen:
            self._seen, self._since = lease, monotonic
        return max(0.0, self._since + lease.ttl_ms / 1000 - monotonic)
