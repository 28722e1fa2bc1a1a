"""Compensation by message: what was decided is put into a queue with the decision, and comes again until it is done.

One message a batch, holding the transactions' ids. Delivered means that the log says so: a message whose transactions
are over is dropped, any other is handed to phase 2 and comes again later. It finds what the call right after the
decision did not finish (that process died, or was stopped) long before the scan's lease is over, and, unlike a call,
survives the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from dougong.clock import Clock
from dougong.errors import Error
from dougong.store import Queue, Store, Tx
from dougong.tcc.announcing import QUEUE, ids_of
from dougong.tcc.ids import ids_json
from dougong.tcc.log import Log, LogRow
from dougong.tcc.recovery import Recovery
from dougong.tcc.transaction import RetrySchedule
from dougong.telemetry import counter, get_logger

__all__ = ["Messenger"]

_MESSAGES = 200
"""Messages looked at in one unit."""
_IDS = 20_000
"""And transactions, about: it must not hold up the writer."""
_SWEEP_ROUNDS = 240
_LOOK_S = 0.25
"""Between two looks at the queue: other processes put messages, too."""

_log = get_logger("dougong.tcc")
_delivered = counter("dougong_tcc_messages_total", "Messages about decided transactions.", labels=("result",))


class Messenger:
    """The queue of one log: `put` beside decisions, `deliver` in the background."""

    def __init__(
        self,
        store: Store,
        log: Log,
        recovery: Recovery,
        clock: Clock,
        *,
        schedule: RetrySchedule,
        delay_s: float,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._log = log
        self._recovery = recovery
        self._clock = clock
        self._schedule = schedule
        self._delay_us = int(delay_s * 1e6)
        self._random = random
        self._queue = Queue(store, QUEUE, random=random)
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Prepare the queue."""
        await self._queue.start()

    async def put(self, tx: Tx, ids: Sequence[int]) -> None:
        """In the unit that decides them: a message about these transactions."""
        if ids:
            await self._queue.put(tx, ids_json(ids), self._clock.now_us() + self._delay_us)

    def wake(self) -> None:
        """Something was put that need not wait."""
        if not self._delay_us:
            self._wake.set()

    async def deliver(self) -> None:
        """For ever: take what is due."""
        rounds = 0
        while True:
            self._wake.clear()
            rounds += 1
            try:
                while await self.deliver_once() == _MESSAGES:
                    pass
                if rounds % _SWEEP_ROUNDS == 0:
                    await self.sweep()
            except Error as error:
                _log.warning("messages_delayed", error=str(error))
            except Exception:  # noqa: BLE001 (a bug in one round must not end all later ones)
                _log.exception("messages_failed")
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def deliver_once(self) -> int:
        """One round; how many messages were due."""
        now_us = self._clock.now_us()
        if not await self._store.read(lambda tx: self._queue.due(tx, now_us, 1)):
            return 0
        count, rows = await self._store.write(lambda tx: self._take(tx, now_us))
        if rows:
            await self._recovery.learn(rows)
            self._recovery.settle(rows)
        return count

    async def sweep(self) -> int:
        """Drop dead letters whose transactions were settled after all, by a call or by a scan; how many."""

        async def unit(tx: Tx) -> int:
            dead = await self._queue.dead(tx, _MESSAGES)
            over = [message for message in dead if not await self._log.decided(tx, ids_of(message))]
            await self._queue.done(tx, over)
            return len(over)

        return await self._store.write(unit)

    async def _take(self, tx: Tx, now_us: int) -> tuple[int, list[LogRow]]:
        """One unit: drop what is done, put off what is not; the rows of what is not."""
        messages = await self._queue.due(tx, now_us, _MESSAGES)
        about: dict[int, list[int]] = {}
        ids = 0
        for message in messages:
            if ids >= _IDS:
                break
            about[message.id] = ids_of(message)
            ids += len(about[message.id])
        messages = messages[: len(about)]
        rows = await self._log.decided(tx, sorted({t for ids in about.values() for t in ids})) if about else {}
        done, again, dead = [], [], []
        for message in messages:
            left = [t for t in about[message.id] if t in rows]
            if not left:
                done.append(message)
            elif message.attempts >= self._schedule.attempts:
                dead.append((message, f"{len(left)} of {len(about[message.id])} transactions are not settled"))
            else:
                delay_s = self._schedule.delay_s(message.attempts, self._random())
                again.append((message, now_us + int(delay_s * 1e6)))
        await self._queue.done(tx, done)
        await self._queue.again(tx, again)
        await self._queue.bury(tx, dead, now_us)
        _delivered.inc(len(done), "done")
        _delivered.inc(len(again), "again")
        if dead:
            _delivered.inc(len(dead), "dead")
            _log.error("messages_dead", count=len(dead), first=_first(ids_of(message) for message, _ in dead))
        return len(messages), list(rows.values())


def _first(ids: Iterable[list[int]]) -> int:
    return next(iter(ids))[0]
