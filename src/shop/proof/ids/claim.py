"""The claim about ids."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from dougong.clock import SystemClock
from dougong.evidence import Claim, Figures, Ratio, Setting, Threshold
from dougong.shard import IdMinter, IdSettings
from dougong.simulation import Outcome, World, find_story, tell
from dougong.store import Store, open_store
from shop.proof.ids.mishaps import MISHAPS, Maker, Makers, WallClock, duplicates
from shop.proof.ids.naive import NaiveSnowflake

__all__ = ["NaiveMakers", "OurMakers", "ids"]

_SHARD = 17
_BULK = 1000
_IDS_CHECKED_MIN = 100_000_000
_SETTINGS = IdSettings(ttl_s=0.4)


class NaiveMakers:
    """Whoever wants to mint, mints."""

    def __init__(self) -> None:
        self.clock = WallClock()

    async def begin(self) -> Maker:
        return NaiveSnowflake(_SHARD, self.clock)

    async def kill(self, maker: Maker) -> None:
        pass


class OurMakers:
    """Minters with leases in one database; each has a connection of its own to it, as processes have."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.clock = WallClock()
        self._url = url
        self._stack = stack
        self._stores: dict[int, Store] = {}

    async def begin(self) -> IdMinter | None:
        store = await open_store(self._url)
        self._stack.push_async_callback(store.close)
        minter = IdMinter(store, _SHARD, holder="proof", clock=self.clock, settings=_SETTINGS)
        self._stores[id(minter)] = store
        await self._stack.enter_async_context(minter)
        if not minter.epoch and len(self._stores) > 1:
            return None
        await minter.wait(timeout_s=10)
        return minter

    async def kill(self, maker: Maker) -> None:
        assert isinstance(maker, IdMinter)
        await self._stores.pop(id(maker)).close()  # nothing it says is heard any more


class _IdsExperiment:
    def __init__(self, setting: Setting, url: Callable[[], str]) -> None:
        self._setting = setting
        self._url = url
        self._count = 400_000 if setting.quick else 2_000_000
        self._seeds = 20 if setting.quick else 100
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        figures: dict[str, float] = {}
        for name, mishap in MISHAPS.items():
            figures[f"{name}_duplicates"] = duplicates(await mishap(NaiveMakers()))
        naive = NaiveSnowflake(_SHARD, SystemClock())
        figures["ids_per_s"] = _rate(self._count // 4, lambda: [naive.one() for _ in range(_BULK)])
        return figures

    async def ours(self, pair: int) -> Figures:
        figures: dict[str, float] = {}
        for name, mishap in MISHAPS.items():
            async with AsyncExitStack() as stack:
                makers: Makers = OurMakers(self._url(), stack)
                figures[f"{name}_duplicates"] = duplicates(await mishap(makers))
        return {**figures, **await self._speed(), **await asyncio.to_thread(self._worlds, pair)}

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def _speed(self) -> Figures:
        async with AsyncExitStack() as stack:
            store = await open_store(self._url())
            stack.push_async_callback(store.close)
            minter = await stack.enter_async_context(IdMinter(store, _SHARD, holder="proof"))
            await minter.wait(timeout_s=10)
            began = time.process_time()
            for _ in range(self._count // _BULK):
                assert len(list(await minter.take(_BULK))) == _BULK
            bulk = self._count / (time.process_time() - began)
            one = _rate(self._count // 4, lambda: [minter.one() for _ in range(_BULK)])
        return {"ids_per_s": bulk, "one_by_one_per_s": one}

    def _worlds(self, pair: int) -> Figures:
        """Minters in simulated worlds until enough ids were judged: their ranges side by side, not one by one."""
        seen: Counter[str] = Counter()
        story = find_story("ids")

        async def watched(world: World, without: str) -> Sequence[str]:
            found = await story.tell(world, without)
            minted = [call for call in world.history.calls if call.outcome is Outcome.OK]
            seen["checked_ids"] += sum(call.value for call in minted if isinstance(call.value, int))
            seen["holders"] += len({call.result for call in minted})
            seen["crashes"] += sum(fault.what.startswith("killed") for fault in world.faults.happened)
            seen["clock_sets"] += sum(fault.what.startswith("wall clock") for fault in world.faults.happened)
            return found

        watching = msgspec.structs.replace(story, tell=watched)
        first = self._setting.seed * 1_000_000 + pair * 10_000
        while seen["worlds"] < self._seeds or seen["checked_ids"] < _IDS_CHECKED_MIN:
            seed = first + seen["worlds"]
            told = tell(watching, seed)
            self._problems += [f"dougong simulate ids --seed {seed}: {found}" for found in told.violations]
            seen["worlds"] += 1
        return {name: float(count) for name, count in seen.items()}


def _rate(count: int, mint_bulk: Callable[[], list[int]]) -> float:
    """Ids a second of processor time."""
    began = time.process_time()
    for _ in range(count // _BULK):
        mint_bulk()
    return count / (time.process_time() - began)


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[_IdsExperiment]:
    data = setting.workdir / "data"
    data.mkdir()
    numbers = itertools.count(1)
    try:
        yield _IdsExperiment(setting, lambda: f"sqlite:///{data}/{next(numbers)}.db")
    finally:
        shutil.rmtree(data, ignore_errors=True)


ids = Claim(
    name="ids",
    title="Ids that carry their shard, never twice, without asking anybody",
    situation=(
        "A snowflake as it is usually published: 42 bits of milliseconds, 8 of shard, 14 of sequence. The sequence "
        "wraps in a busy millisecond; a clock that is set back, a restart and a second process each repeat ids."
    ),
    task=(
        "No id twice under rollback, overflow, restart and two minters, over a hundred million ids in worlds where all "
        "of that happens at any moment; two million ids a second in one process."
    ),
    action=(
        "One number that only rises, between two marks made durable beforehand; a lease with an epoch, whose end is "
        "told by the monotonic clock. Then ids are minted in simulated worlds, three processes for one shard, and the "
        "ranges they got are laid side by side."
    ),
    result=(
        "{ours[ids_per_s]:,.0f} ids/s of processor time in lists of a thousand, {ours[one_by_one_per_s]:,.0f}/s one by "
        "one (naive {baseline[ids_per_s]:,.0f}/s); no id twice among {ours[checked_ids]:,.0f} a run, through "
        "{ours[crashes]:,.0f} crashes, {ours[clock_sets]:,.0f} set clocks and {ours[holders]:,.0f} holders in "
        "{ours[worlds]:,.0f} worlds. The naive one repeated {baseline[rollback_duplicates]:,.0f} ids under rollback, "
        "{baseline[overflow_duplicates]:,.0f} under overflow, {baseline[restart_duplicates]:,.0f} under restart, "
        "{baseline[two_minters_duplicates]:,.0f} with two minters; ours none."
    ),
    experiment=_experiment,
    ratios={"bulk": Ratio("ids_per_s", "ids_per_s"), "one_by_one": Ratio("one_by_one_per_s", "ids_per_s")},
    thresholds=(
        Threshold("ours.ids_per_s", at_least=2_000_000),
        Threshold("ours.checked_ids", at_least=_IDS_CHECKED_MIN),
        *(Threshold(f"ours.{name}_duplicates", at_most=0) for name in MISHAPS),
        *(Threshold(f"baseline.{name}_duplicates", at_least=1) for name in MISHAPS),
    ),
)
