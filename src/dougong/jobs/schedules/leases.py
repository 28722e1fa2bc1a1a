"""Who may fire: a lease with a term. A term is never given out twice, and whoever writes looks at it in the same
transaction, so one who slept through the end of his can write nothing, however sure of himself he is.
"""

from __future__ import annotations

import msgspec

from dougong.store import Tx

__all__ = ["Lease", "Leases"]

_COLUMNS = "term, holder, until_us, ttl_us, seen_us"


class Lease(msgspec.Struct, frozen=True):
    """As stored. `seen_us` is the latest time at which a holder looked at the clock, as far as it was written down."""

    term: int
    holder: str
    until_us: int
    ttl_us: int
    seen_us: int

    def held(self, now_us: int) -> bool:
        """An end that is further off than the lease is long was set by a clock that has been moved back since. To take
        such a lease is safe: its holder, should it live, finds its term over.
        """
        return now_us < self.until_us <= now_us + self.ttl_us

    def wants_renewal(self, now_us: int) -> bool:
        """From half its time on."""
        return not now_us + self.ttl_us // 2 < self.until_us <= now_us + self.ttl_us


class Leases:
    """One lease by name. All methods but `create` and `read` run in the unit that does what the lease allows."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def create(self, tx: Tx) -> None:
        """Held by nobody, when it is not there."""
        if await self.read(tx) is None:
            await tx.execute(
                f"INSERT INTO dougong_job_leases (name, {_COLUMNS}) VALUES (?, 0, '', 0, 0, 0)",  # noqa: S608 (our own names)
                (self._name,),
            )

    async def read(self, tx: Tx) -> Lease | None:
        row = await tx.fetch_one(f"SELECT {_COLUMNS} FROM dougong_job_leases WHERE name = ?", (self._name,))  # noqa: S608 (our own names)
        return Lease(*row) if row is not None else None  # type: ignore[arg-type]

    async def take(self, tx: Tx, holder: str, ttl_us: int, now_us: int) -> Lease | None:
        """A new term; None while somebody else's lasts."""
        standing = await self.read(tx)
        assert standing is not None, "created at the start"
        if standing.held(now_us):
            return None
        await tx.execute(
            "UPDATE dougong_job_leases SET term = ?, holder = ?, until_us = ?, ttl_us = ?, seen_us = ? WHERE name = ?",
            (standing.term + 1, holder[:500], now_us + ttl_us, ttl_us, now_us, self._name),
        )
        return Lease(standing.term + 1, holder, now_us + ttl_us, ttl_us, standing.seen_us)

    async def hold(self, tx: Tx, term: int, now_us: int, seen_us: int) -> bool:
        """Whether the term still lasts; renewed when half of it is over."""
        standing = await self.read(tx)
        if standing is None or standing.term != term or now_us >= standing.until_us:
            return False
        if standing.wants_renewal(now_us):
            await tx.execute(
                "UPDATE dougong_job_leases SET until_us = ?, seen_us = ? WHERE name = ? AND term = ?",
                (now_us + standing.ttl_us, seen_us, self._name, term),
            )
        return True

    async def release(self, tx: Tx, term: int) -> None:
        """Anybody may take it at once."""
        await tx.execute("UPDATE dougong_job_leases SET until_us = 0 WHERE name = ? AND term = ?", (self._name, term))

    async def holder(self, tx: Tx, now_us: int) -> str:
        """For people; empty when nobody holds it."""
        standing = await self.read(tx)
        return standing.holder if standing is not None and standing.held(now_us) else ""
