"""Three processes want to mint for one shard: crashes, late writes, clocks that are set back and forth, bursts that
fill more milliseconds than have passed. Whatever was handed out is laid side by side in the end.

Ids are judged as ranges, not one by one, so that a telling can mint millions: two ranges that overlap share an id, or
nearly do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import msgspec

from dougong.errors import Error
from dougong.shard import IdMinter, IdSettings, Run, shard_of, unpack_id
from dougong.shard.id_leases import IdLeases
from dougong.shard.ids import ALIGNMENT, EPOCH_MS, SEQUENCE_BITS
from dougong.shard.minting import Minter
from dougong.simulation.faults import Chaos
from dougong.simulation.node import Process
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import Tx

__all__ = ["story"]

SHARD = 17
CALM_S = 60.0
"""Faults end then."""
QUIET_S = 60.0
"""Within so long afterwards somebody mints again: clocks may still be behind."""
SETTINGS = IdSettings(ttl_s=3.0, lead_ms_max=100, wait_ms_max=1000, call_s_max=8.0)


class Minted(msgspec.Struct, frozen=True):
    """What one call got."""

    who: str
    epoch: int
    clock_ms: int
    """What the minting process's clock showed."""
    aligned: bool
    ranges: tuple[range, ...]

    @property
    def first(self) -> int:
        return self.ranges[0][0]

    @property
    def last(self) -> int:
        return self.ranges[-1][-1]


class Mint:
    """A process that mints whenever it may."""

    def __init__(self, world: World, process: Process, minted: list[Minted], without: str) -> None:
        self._world = world
        self._process = process
        self._minted = minted
        self._ids = IdMinter(
            process.store("ids"),
            SHARD,
            holder=process.name,
            clock=process.clock,
            settings=SETTINGS,
            random=process.random,
        )
        if without in _CORES:
            self._ids._core.__class__ = _CORES[without]
        elif without == "epoch":
            self._ids._leases.__class__ = _AnyEpoch

    async def work(self) -> None:
        draw = self._process.random
        await self._ids.start()
        while True:
            await asyncio.sleep(draw.random() * 0.4)
            if draw.random() < 0.01:
                await self._ids.stop()
                await asyncio.sleep(draw.random())
                await self._ids.start()
            for _ in range(draw.choice((1, 1, 2, 8))):
                await self._mint(draw.choice((1, 1, 10, 1000, 5000, 20_000, 150_000)), aligned=draw.random() < 0.3)

    async def _mint(self, count: int, *, aligned: bool) -> None:
        count = min(count, 10_000) if aligned else count
        call = self._world.history.invoke(self._process.name, "mint", value=count)
        try:
            if count == 1:
                number = self._ids.one(aligned=aligned)
                ranges: tuple[range, ...] = (range(number, number + 1),)
            else:
                run: Run = await self._ids.take(count, aligned=aligned)
                ranges = tuple(run.ranges())
        except Error as error:
            self._world.history.fail(call, error.code)
            return
        # Nothing was awaited since the ids were made: this is the moment, and the order, of their making.
        clock_ms = self._process.clock.now_us() // 1000 - EPOCH_MS
        self._minted.append(Minted(self._process.name, self._ids.epoch, clock_ms, aligned, ranges))
        self._world.history.ok(call, self._ids.epoch)


# What takes a safeguard away


class _NoLeaseEnd(Minter):
    """Mints until it hears that somebody else does."""

    def extend(self, mark_ms: int, ends_at: float) -> None:
        super().extend(mark_ms, float("inf"))


class _NoMark(Minter):
    """Begins at its own clock, and mints whatever was made durable."""

    def grant(self, from_ms: int, mark_ms: int, ends_at: float) -> None:
        super().grant(0, mark_ms, ends_at)

    def extend(self, mark_ms: int, ends_at: float) -> None:
        super().extend(1 << 40, ends_at)


class _NoDriftCheck(Minter):
    """Goes on from where it was, however far behind the clock may be."""

    def one(self, now_us: int, monotonic: float, *, aligned: bool = False) -> int:
        return super().one(max(now_us, self._last_us), monotonic, aligned=aligned)

    def take(self, count: int, now_us: int, monotonic: float, *, aligned: bool = False) -> Run:
        return super().take(count, max(now_us, self._last_us), monotonic, aligned=aligned)

    @property
    def _last_us(self) -> int:
        return ((self._next >> SEQUENCE_BITS) + EPOCH_MS) * 1000


class _Wraps(Minter):
    """Begins the same millisecond again when it is full."""

    def take(self, count: int, now_us: int, monotonic: float, *, aligned: bool = False) -> Run:
        run = super().take(count, now_us, monotonic, aligned=aligned)
        if self._next >> SEQUENCE_BITS > run.first >> SEQUENCE_BITS:
            self._next = run.first >> SEQUENCE_BITS << SEQUENCE_BITS
        return run


class _Falls(Minter):
    """Follows the clock back."""

    def take(self, count: int, now_us: int, monotonic: float, *, aligned: bool = False) -> Run:
        self._next = min(self._next, (now_us // 1000 - EPOCH_MS + 1) << SEQUENCE_BITS)
        return super().take(count, now_us, monotonic, aligned=aligned)


class _NoBits(Minter):
    """Takes any sequence for an aligned id."""

    def _aligned(self, position: int) -> int:
        return position


class _AnyEpoch(IdLeases):
    """Renews whoever the holder is."""

    async def renew(self, tx: Tx, epoch: int, mark_ms: int) -> bool:
        return await super().renew(tx, (await self.read(tx)).epoch, mark_ms)


_CORES: dict[str, type[Minter]] = {
    "lease": _NoLeaseEnd,
    "mark": _NoMark,
    "drift-check": _NoDriftCheck,
    "overflow-wait": _Wraps,
    "logical-clock": _Falls,
    "bucket-bits": _NoBits,
}


async def tell(world: World, without: str) -> Sequence[str]:
    """They mint as much as they can; then the ids are looked at."""
    minted: list[Minted] = []

    async def serve(process: Process) -> None:
        await Mint(world, process, minted, without).work()

    for n in range(3):
        world.node(f"minter-{n}").start(serve)
    await asyncio.sleep(CALM_S)
    world.heal()
    before = len(minted)
    for _ in range(int(QUIET_S)):
        await asyncio.sleep(1.0)
        if len(minted) > before + 5:
            break
    found = _judge(minted)
    if len(minted) == before:
        found.append(f"nobody minted anything for {QUIET_S:.0f} s though nothing was wrong")
    return found


def _judge(minted: Sequence[Minted]) -> list[str]:
    """`minted` in the order of minting."""
    return [*_overlaps(minted), *_terms(minted), *_bounds(minted)]


def _overlaps(minted: Sequence[Minted]) -> list[str]:
    found: list[str] = []
    ranges = sorted(((some[0], some[-1], one) for one in minted for some in one.ranges), key=lambda entry: entry[:2])
    last, by = -1, ranges[0][2] if ranges else None
    for first, end, one in ranges:
        if first <= last and by is not None:
            found.append(
                f"{first} of {one.who} (epoch {one.epoch}) lies among ids that {by.who} (epoch {by.epoch}) made, too"
            )
        if end > last:
            last, by = end, one
    return found


def _terms(minted: Sequence[Minted]) -> list[str]:
    """One holder after the other, and ids that rise from each to the next."""
    found: list[str] = []
    for before, after in itertools.pairwise(minted):
        if after.epoch < before.epoch:
            found.append(f"{after.who} minted in epoch {after.epoch} after {before.who} had begun epoch {before.epoch}")
        if after.first <= before.last:
            found.append(f"{after.who} minted {after.first} after {before.who} had minted {before.last}")
    return found


def _bounds(minted: Sequence[Minted]) -> list[str]:
    found: list[str] = []
    for one in minted:
        first, last = unpack_id(one.first), unpack_id(one.last)
        lead_ms = last.time_ms - one.clock_ms
        if first.time_ms < one.clock_ms or lead_ms > SETTINGS.lead_ms_max:
            found.append(f"{one.last} of {one.who} is {lead_ms} ms ahead of the clock it was made by")
        for some in one.ranges:
            if {shard_of(some[0]), shard_of(some[-1])} != {SHARD}:
                found.append(f"{some} of {one.who} is not of shard {SHARD}")
            if one.aligned and not some[0] % ALIGNMENT == some[-1] % ALIGNMENT == SHARD:
                found.append(f"{some} of {one.who} was to be aligned")
    return found


story = Story(
    name="ids",
    title="Three processes mint ids for one shard: crashes, clocks set back, bursts, and late renewals.",
    tell=tell,
    chaos=Chaos(
        crash_every_s=20.0,
        down_s=1.0,
        write_s=0.05,
        write_slow=0.05,
        disk_full=0.02,
        disk_locked=0.02,
        disk_gone_every_s=60.0,
        disk_gone_s=3.0,
        clock_skew_s=1.0,
        clock_drift=0.001,
        clock_jump_every_s=25.0,
        clock_jump_s=5.0,
    ),
    safeguards={
        "lease": "nothing is minted after the lease has ended by the monotonic clock",
        "epoch": "a renewal counts only in its holder's own epoch",
        "mark": "a time is made durable before ids of it are minted, and the next holder begins there",
        "logical-clock": "ids go on from the last one when the clock is set back",
        "drift-check": "a clock that is far behind what was minted is refused",
        "overflow-wait": "a full millisecond is followed by the next one, and at the bound the caller waits",
        "bucket-bits": "the low bits of an aligned id are its bucket",
    },
)
