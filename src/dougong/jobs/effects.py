"""An effect happens once, however often its job runs: a row beside it says that it did.

A job may run twice: its worker died after the effect and before the end was written. So the effect's own transaction
also records the job; who finds that record does nothing. The database may be another one than that of the queue.

    async def book(tx: Tx) -> None:
        if await effects.first(tx, job_id):
            await tx.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (5, 1))

    await store.write(book)
"""

from __future__ import annotations

from dougong.clock import Clock
from dougong.errors import Invalid
from dougong.store import Store, Tx, migrations_from

__all__ = ["Effects", "first_effect"]

FORGET_ROWS = 1000
_SOURCE_CHARS_MAX = 100


async def first_effect(tx: Tx, source: str, job_id: int, at_us: int) -> bool:
    """Whether a job of that source has had no effect here yet. From here on it has, if the transaction commits."""
    row = (source, job_id)
    if await tx.fetch_one("SELECT 1 FROM dougong_job_effects WHERE source = ? AND job_id = ?", row) is not None:
        return False
    await tx.execute("INSERT INTO dougong_job_effects (source, job_id, at_us) VALUES (?, ?, ?)", (*row, at_us))
    return True


class Effects:
    """Records of one queue's jobs in one database. `source` names the queue where several have effects here: their
    jobs may have the same numbers. `keep_s` must be longer than a job can take to come again, retries included.
    """

    def __init__(self, store: Store, clock: Clock, *, source: str = "", keep_s: float = 30 * 86_400.0) -> None:
        if len(source) > _SOURCE_CHARS_MAX or source != source.strip():
            raise Invalid(
                f"source {source!r} must be at most {_SOURCE_CHARS_MAX} characters, no space at its ends",
                code="bad_source",
            )
        self._store = store
        self._clock = clock
        self._source = source
        self._keep_us = round(keep_s * 1e6)

    async def start(self) -> None:
        """Create the table when it is missing."""
        await self._store.migrate("dougong.jobs.effects", migrations_from("dougong.jobs.sql.migrations.effects"))

    async def first(self, tx: Tx, job_id: int) -> bool:
        """Whether the job has had no effect here yet. From here on it has, if the transaction commits."""
        return await first_effect(tx, self._source, job_id, self._clock.now_us())

    async def sweep(self) -> int:
        """Forget what was kept long enough, of all sources, a thousand rows in a transaction; how many."""
        before_us = self._clock.now_us() - self._keep_us
        dropped = 0

        async def unit(tx: Tx) -> int:
            rows = await tx.fetch_all(
                "SELECT source, job_id FROM dougong_job_effects WHERE at_us < ? ORDER BY at_us LIMIT ?",
                (before_us, FORGET_ROWS),
            )
            await tx.execute_many("DELETE FROM dougong_job_effects WHERE source = ? AND job_id = ?", rows)
            return len(rows)

        while True:
            some = await self._store.write(unit)
            dropped += some
            if some < FORGET_ROWS:
                return dropped
