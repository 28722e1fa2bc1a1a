"""The shell around the minter: a lease in a database, renewed in the background, and the two clocks."""

from __future__ import annotations

import asyncio
import random as random_module
from types import TracebackType
from typing import Self

import msgspec

from dougong.clock import Clock, SystemClock
from dougong.errors import Error, Invalid, Overloaded, Unavailable
from dougong.shard.id_leases import ID_LEASES, IdLeases, Watch
from dougong.shard.ids import EPOCH_MS, TIME_MS_END
from dougong.shard.minting import MarkReached, Minter, Run
from dougong.store import Store
from dougong.telemetry import counter, gauge, get_logger

__all__ = ["IdMinter", "IdSettings"]

_log = get_logger("dougong.shard")
_minted = counter("dougong_ids_minted_total", "Ids minted, as of the last renewal.", labels=("shard",))
_refused = counter(
    "dougong_ids_refused_total", "Calls that got no ids, or had to wait for them, by reason.", labels=("shard", "code")
)
_held = gauge("dougong_ids_lease_held", "Whether this process mints for the shard: 1 or 0.", labels=("shard",))
_taken = counter("dougong_ids_leases_taken_total", "Leases that this process was granted.", labels=("shard",))
_lost = counter("dougong_ids_leases_lost_total", "Leases that this process lost without giving up.", labels=("shard",))

_RENEWALS_PER_TTL = 4
_DRIFT_SHARE = 0.05
"""Of the term: how much faster somebody else's monotonic clock may run than ours."""
_BACKOFF_S_MIN = 0.05
_WAITING_MAX = 1000


class IdSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Terms and patience."""

    ttl_s: float = 10.0
    """A shard whose holder dies without a word is minted for again after so long."""
    lead_ms_max: int = 100
    """How far the time in an id may be ahead of the clock: room for 1.6 million ids in a burst."""
    wait_ms_max: int = 1000
    """How long a call waits for the clock to catch up; if that is not enough, the clock was moved back."""
    call_s_max: float = 5.0
    """Deadline of one call to the database."""

    def __post_init__(self) -> None:
        if not (0.1 <= self.ttl_s <= 3600 and 1 <= self.lead_ms_max <= 10_000 and 0 <= self.wait_ms_max <= 60_000):
            raise Invalid(
                "ttl_s must be 0.1 to 3600, lead_ms_max 1 to 10,000, wait_ms_max 0 to 60,000", code="bad_settings"
            )


class IdMinter:
    """Mints ids for one shard, as long as it holds the shard's lease.

    `holder` is for people: which process this is. Any number of minters may ask for a shard; one has it, the others
    wait in the background and take over when it stops.

    >>> async with IdMinter(store, shard=17, holder="users-1") as ids:        # doctest: +SKIP
    ...     await ids.wait(timeout_s=30)
    ...     order_id = ids.one()
    ...     many = await ids.take(5000)
    """

    def __init__(
        self,
        store: Store,
        shard: int,
        *,
        holder: str,
        clock: Clock | None = None,
        settings: IdSettings | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        settings = settings if settings is not None else IdSettings()
        if not 1 <= len(holder) <= 150:
            raise Invalid("holder, the name of this process for people, is 1 to 150 characters", code="bad_holder")
        self._store = store
        self._settings = settings
        self._clock = clock if clock is not None else SystemClock()
        self._random = random if random is not None else random_module.SystemRandom()
        # Two processes under one name, or one name's next life, are two holders.
        self._holder = f"{holder} {self._random.getrandbits(64):016x}"
        self._core = Minter(shard, lead_ms_max=settings.lead_ms_max, wait_ms_max=settings.wait_ms_max)
        self._leases = IdLeases(shard)
        self._shard = shard
        self._label = str(shard)
        self._epoch = 0
        self._counted = 0
        self._waiting = 0
        self._attempted = asyncio.Event()
        self._leased = asyncio.Event()
        self._hurry = asyncio.Event()
        self._renewed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def shard(self) -> int:
        return self._shard

    @property
    def epoch(self) -> int:
        """Of the lease; 0 while there is none."""
        return self._epoch

    async def start(self) -> None:
        """Ask for the lease, and keep asking and renewing. Returns after the first attempt (see `wait`)."""
        if self._task is None:
            self._attempted.clear()
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"ids of shard {self._shard}")
        await self._attempted.wait()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the lease; `Unavailable` (`no_lease`) when that takes longer. It is still asked for then."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._leased.wait()
        except TimeoutError:
            raise Unavailable(
                f"shard {self._shard} was not to be had within {timeout_s} s: another process has it, or database "
                f"{self._store.name} cannot be reached; still trying",
                code="no_lease",
                retry_after_s=1.0,
                shard=self._shard,
            ) from None

    async def stop(self) -> None:
        """Mint no more, and give the shard back, so that the next one need not wait for the term to end."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        epoch = self._epoch
        self._end_lease()
        if epoch:
            mark_ms = self._core.next_ms
            try:
                async with asyncio.timeout(self._settings.call_s_max):
                    await self._store.write(lambda tx: self._leases.release(tx, epoch, mark_ms))
            except (Error, TimeoutError) as error:
                _log.warning(
                    "id_lease_not_released", shard=self._shard, error=str(error), ends_in_s=self._settings.ttl_s
                )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def one(self, *, aligned: bool = False) -> int:
        """An id, now. `aligned`: its low 7 bits are the shard, as a user's own id has them.

        Raises what stands in the way, with `retry_after_s`: `Unavailable` (`no_lease`, `mark_reached`,
        `clock_moved_back`), `Overloaded` (`ids_ahead`). `take` waits where waiting helps.
        """
        clock = self._clock
        try:
            return self._core.one(clock.now_us(), clock.monotonic(), aligned=aligned)
        except Error as error:
            self._note(error)
            raise

    async def take(self, count: int, *, aligned: bool = False) -> Run:
        """`count` ids at once, up to 1.6 million (aligned 12,800) by default; waits for a moment where that helps.

        Raises as `one` does, and `Invalid` (`bad_count`).
        """
        loop, clock, settings = asyncio.get_running_loop(), self._clock, self._settings
        until = loop.time() + 2 * (settings.wait_ms_max + settings.lead_ms_max) / 1000
        while True:
            try:
                return self._core.take(count, clock.now_us(), clock.monotonic(), aligned=aligned)
            except (Overloaded, MarkReached) as error:
                self._note(error)
                left_s = until - loop.time()
                if left_s <= 0 or self._waiting >= _WAITING_MAX:
                    raise
                await self._pause(error, left_s)
            except Error as error:
                self._note(error)
                raise

    async def _pause(self, error: Overloaded | MarkReached, left_s: float) -> None:
        """Until what is in the way may be gone."""
        self._waiting += 1
        try:
            if isinstance(error, Overloaded):
                await asyncio.sleep(min(error.retry_after_s or 0.0, left_s))
                return
            self._hurry.set()
            async with asyncio.timeout(left_s):
                await self._renewed.wait()
        except TimeoutError:
            pass  # the next look says what is the matter
        finally:
            self._waiting -= 1

    def _note(self, error: Error) -> None:
        _refused.inc(1, self._label, error.code)

    # The lease

    async def _run(self) -> None:
        try:
            await self._hold_for_ever()
        finally:
            self._attempted.set()  # nobody waits for a task that is gone

    async def _hold_for_ever(self) -> None:
        watch = Watch()
        ready = False
        backoff_s = _BACKOFF_S_MIN
        while True:
            try:
                async with asyncio.timeout(self._settings.call_s_max):
                    if not ready:
                        await self._store.migrate("dougong.shard.ids", ID_LEASES)
                        ready = True
                    wait_s = await self._acquire(watch)
            except (Error, TimeoutError) as error:
                _log.warning("id_lease_not_taken", shard=self._shard, error=str(error))
                self._attempted.set()
                backoff_s = await self._back_off(backoff_s)
                continue
            self._attempted.set()
            backoff_s = _BACKOFF_S_MIN
            if wait_s:
                await asyncio.sleep(min(wait_s, self._settings.ttl_s / _RENEWALS_PER_TTL))
            else:
                await self._keep()

    async def _acquire(self, watch: Watch) -> float:
        """Take the lease if it may be taken; else how long to wait before it may be."""
        seen = await self._store.read(self._leases.read)
        wait_s = watch.wait_s(seen, self._holder, self._clock.monotonic())
        if wait_s:
            return wait_s
        asked_at, mark_ms, ttl_ms = self._clock.monotonic(), self._mark_ms(), round(self._settings.ttl_s * 1000)
        taken = await self._store.write(lambda tx: self._leases.take(tx, seen, self._holder, mark_ms, ttl_ms))
        if taken is None:  # somebody was faster
            return _BACKOFF_S_MIN
        self._core.grant(seen.mark_ms, taken.mark_ms, self._ends_at(asked_at))
        self._epoch = taken.epoch
        self._leased.set()
        _held.set(1, self._label)
        _taken.inc(1, self._label)
        _log.info("id_lease_taken", shard=self._shard, epoch=taken.epoch, before=seen.holder)
        return 0.0

    async def _keep(self) -> None:
        """Renew until the lease is lost."""
        epoch = self._epoch
        backoff_s = _BACKOFF_S_MIN
        while True:
            await self._rest()
            asked_at, mark_ms = self._clock.monotonic(), self._mark_ms()
            try:
                async with asyncio.timeout(self._settings.call_s_max):
                    ours = await self._store.write(lambda tx: self._leases.renew(tx, epoch, mark_ms))  # noqa: B023
            except (Error, TimeoutError) as error:
                if self._clock.monotonic() >= self._core.ends_at:
                    self._lose(f"it ended before it could be renewed: {error}")
                    return
                backoff_s = await self._back_off(backoff_s)
                self._hurry.set()
                continue
            if not ours:
                self._lose("another process took it")
                return
            backoff_s = _BACKOFF_S_MIN
            self._core.extend(mark_ms, self._ends_at(asked_at))
            self._count()
            self._wake()

    async def _rest(self) -> None:
        """Until the next renewal is due, or wanted."""
        try:
            async with asyncio.timeout(self._settings.ttl_s / _RENEWALS_PER_TTL):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _back_off(self, backoff_s: float) -> float:
        await asyncio.sleep(backoff_s * self._random.uniform(0.5, 1.0))
        return min(self._settings.ttl_s / _RENEWALS_PER_TTL, backoff_s * 2)

    def _ends_at(self, asked_at: float) -> float:
        return asked_at + self._settings.ttl_s * (1 - _DRIFT_SHARE)

    def _mark_ms(self) -> int:
        """Beyond all that can be minted until the lease ends, if nobody sets the clock."""
        settings = self._settings
        now_ms = self._clock.now_us() // 1000 - EPOCH_MS
        return max(0, min(TIME_MS_END, now_ms + round(settings.ttl_s * 1000) + 2 * settings.lead_ms_max))

    def _lose(self, why: str) -> None:
        _lost.inc(1, self._label)
        _log.warning("id_lease_lost", shard=self._shard, epoch=self._epoch, why=why)
        self._end_lease()

    def _end_lease(self) -> None:
        self._core.revoke()
        self._epoch = 0
        self._leased.clear()
        _held.set(0, self._label)
        self._count()
        self._wake()

    def _count(self) -> None:
        """Once in a while, not per id: counting costs as much as minting."""
        _minted.inc(self._core.minted - self._counted, self._label)
        self._counted = self._core.minted

    def _wake(self) -> None:
        """Who waits for a renewal looks again."""
        self._renewed.set()
        self._renewed = asyncio.Event()
