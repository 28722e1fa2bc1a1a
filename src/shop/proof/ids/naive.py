"""The minter people start from, as the layout is usually published: right as long as nothing happens."""

from __future__ import annotations

from dougong.clock import Clock

__all__ = ["NaiveSnowflake"]

_EPOCH_MS = 1_735_689_600_000


class NaiveSnowflake:
    """42 bits of milliseconds, 8 of shard, 14 of a sequence that begins anew each millisecond."""

    def __init__(self, shard: int, clock: Clock) -> None:
        self._shard = shard
        self._clock = clock
        self._last_ms = -1
        self._sequence = 0

    def one(self) -> int:
        now_ms = self._clock.now_us() // 1000 - _EPOCH_MS
        if now_ms == self._last_ms:
            self._sequence = (self._sequence + 1) & 0x3FFF
        else:
            self._sequence = 0
            self._last_ms = now_ms
        return now_ms << 22 | self._shard << 14 | self._sequence
