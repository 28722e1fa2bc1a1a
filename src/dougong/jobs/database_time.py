"""One clock for a database's workers and schedulers: the server's own; on SQLite, all on one machine, the injected."""

from __future__ import annotations

from typing import cast

from dougong.clock import Clock
from dougong.store import Tx

__all__ = ["DatabaseTime"]

_NOW = {
    # not UNIX_TIMESTAMP(SYSDATE()): that goes by the session's time zone, whose clock shows an hour twice in autumn
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    # the wall now: now() is when the transaction began, and it may have waited for its turn since
    "postgresql": "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
}


class DatabaseTime:
    """Asked within a unit."""

    def __init__(self, dialect: str, clock: Clock) -> None:
        self._sql = _NOW.get(dialect)
        self._clock = clock

    async def now_us(self, tx: Tx) -> int:
        """UTC microseconds."""
        if self._sql is None:
            return self._clock.now_us()
        row = await tx.fetch_one(self._sql)
        assert row is not None, "a clock always answers"
        return cast(int, row[0])
