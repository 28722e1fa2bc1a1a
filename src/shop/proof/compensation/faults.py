"""The faults: each befalls one shelf and all tills at it at once, after the decisions and before they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from dougong.tcc import Triggers
from shop.proof.compensation.tills import Till, together
from shop.proof.compensation.watch import Settled, settled, watch
from shop.proof.tcc.stand import Stand

__all__ = ["crash_callers", "crash_participant", "disturb_nothing", "look", "put_right"]

Tills = Mapping[str, Till]

_PAUSE_S = 0.02
"""Between two groups of confirms, whoever's."""
_CONFIRMING_S = 30.0
"""To confirm everything, on a machine that is busy; looked at that long only if something is never settled."""
_CLOSELY_S = 0.001
_SELDOM_S = 0.02
_PUT_RIGHT_S = 30.0
"""To settle what is left; looked at that long only if it is never settled."""


async def disturb_nothing(stand: Stand, tills: Tills, *, bound_s: float) -> dict[str, Settled]:
    """A group of confirms now and then, by each till in turn, so that none waits and all have the same weather."""
    await together(*(till.open() for till in tills.values()))
    seen: dict[int, float] = {}

    async def see() -> None:
        ids = [till.ids for till in tills.values()]
        seen.update(await watch(stand.shelf_url, ids, bound_s=_CONFIRMING_S + bound_s, every_s=_CLOSELY_S))

    async def confirm() -> None:
        for groups in zip(*(till.groups for till in tills.values()), strict=True):
            for till, group in zip(tills.values(), groups, strict=True):
                await till.confirm(group)
                await asyncio.sleep(_PAUSE_S)

    await together(see(), confirm())
    return {name: settled(till.acknowledged, seen) for name, till in tills.items()}


async def crash_participant(stand: Stand, tills: Tills, *, bound_s: float) -> tuple[dict[str, Settled], float]:
    """The shelf is gone when they confirm, and comes back where it was, as fast as a process starts.

    Returns, beside what became of them, how many seconds it was away.
    """
    await together(*(till.open() for till in tills.values()))
    await stand.shelf.kill()
    gone = time.monotonic()
    await together(*(till.confirm_all() for till in tills.values()))
    await stand.start()
    away_s = time.monotonic() - gone
    return await look(stand, tills, bound_s=bound_s), away_s


async def crash_callers(stand: Stand, tills: Tills, *, losers: Sequence[str] = ()) -> None:
    """The shelf stands still, so that nobody can be told; the tills confirm and are killed; then all goes on.

    `losers` have their queue emptied meanwhile. All need successors.
    """
    await together(*(till.open() for till in tills.values()))
    stand.shelf.freeze()
    await together(*(_confirm_and_die(till) for till in tills.values()))
    for name in losers:
        await tills[name].lose_messages()
    stand.shelf.thaw()
    await together(*(till.succeed() for till in tills.values()))


async def look(stand: Stand, tills: Tills, *, bound_s: float) -> dict[str, Settled]:
    """What becomes of everything acknowledged within that time."""
    ids = [till.ids for till in tills.values()]
    seen = await watch(stand.shelf_url, ids, bound_s=bound_s, every_s=_SELDOM_S)
    return {name: settled(till.acknowledged, seen) for name, till in tills.items()}


async def put_right(stand: Stand, tills: Sequence[Till]) -> list[str]:
    """What a trigger left unsettled is in the log all the same: a coordinator with all three finds it.

    Returns what it does not find even in a long time.
    """
    await together(*(till.start_successor(Triggers()) for till in tills))
    await together(*(till.succeed() for till in tills))
    seen = await watch(stand.shelf_url, [till.ids for till in tills], bound_s=_PUT_RIGHT_S, every_s=_SELDOM_S)
    lost = sum(settled(till.acknowledged, seen).unsettled for till in tills)
    return [f"{lost} unsettled transactions are not settled by all three triggers either"] if lost else []


async def _confirm_and_die(till: Till) -> None:
    await till.confirm_all()
    await till.kill()
