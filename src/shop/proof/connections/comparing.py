"""Ours beside the baselines: what an idle connection of each takes, and how many calls a second each answers.

All stand at once and are called in turns of a quarter of a second: a machine that is quick for some seconds and slow
for others is so to all of them alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec

from dougong.evidence import Figures, NotShown, Swarm, Timed, quantiles_of, swarm_of
from shop.proof.connections.memory import sample
from shop.proof.connections.servers import Kind, Options
from shop.proof.connections.stand import Server, crowd, server

__all__ = ["Comparison", "compare"]

_SET_UP_PER_S = 5000.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it."""

    few: int
    """Connections of each server."""
    seconds: float
    """In which each is called, in all: once one call at a time on a connection, once many."""
    turns: int
    """In so many pieces; one more comes before, to warm up."""
    in_flight: int
    """Sessions that call at once."""
    each: int
    """Calls that each of them has under way when they call many at a time."""


class _Stand:
    """A server, who calls it, and what came of that."""

    def __init__(self, kind: Kind, up: Server, swarm: Swarm) -> None:
        self.kind = kind
        self.up = up
        self.swarm = swarm
        self.figures: dict[str, float] = {}
        self.cpu_s = 0.0
        self.timed = Timed()

    async def fill(self, few: int) -> None:
        empty = await asyncio.to_thread(sample, "empty", self.up.pids, self.swarm.pids)
        connected = await self.swarm.connect()
        if connected.open != few:
            raise NotShown(f"{self.kind} took {connected.open:,} of {few:,}: {connected.refused}")
        full = await asyncio.to_thread(sample, "full", self.up.pids, self.swarm.pids)
        self.figures["bytes"] = (full.server - empty.server) / few

    async def call(self, seconds: float, in_flight: int, each: int) -> None:
        """A closed loop, `each` under way on each of some sessions."""
        before = await self.up.cpu_s()
        timed = await self.swarm.call(seconds=seconds, in_flight=in_flight, each=each)
        self.cpu_s += await self.up.cpu_s() - before
        sums = self.timed
        self.timed = Timed(
            sent=sums.sent + timed.sent,
            answered=sums.answered + timed.answered,
            failed=sums.failed + timed.failed,
            seconds=sums.seconds + timed.seconds,
            latency=sums.latency + timed.latency,
        )

    def forget(self) -> None:
        """What the calls came to."""
        self.cpu_s, self.timed = 0.0, Timed()

    def tell(self, what: str) -> str:
        """Figures of the calls; what is wrong with them."""
        timed = self.timed
        self.figures |= {
            f"{what}_per_s": timed.per_s,
            f"{what}_cpu_us": self.cpu_s / max(1, timed.answered) * 1e6,
            f"{what}_per_cpu_s": timed.answered / self.cpu_s,
            f"{what}_p99_ms": quantiles_of(timed).p99_ms,
        }
        if timed.failed or timed.answered != timed.sent:
            return f"{self.kind}: of {timed.sent:,} calls ({what}) {timed.answered:,} were answered"
        return ""


async def compare(
    kinds: Sequence[Kind], plan: Comparison, say: Callable[[str], None]
) -> tuple[Mapping[Kind, Figures], Sequence[str]]:
    """Figures of each, and problems. Raises `NotShown` for one that does not take the connections."""
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        stands: list[_Stand] = []
        for kind in kinds:
            say(f"{kind}: {plan.few:,} connections")
            up = await stack.enter_async_context(server(Options(kind=kind)))
            swarm = await stack.enter_async_context(swarm_of(crowd(up, plan.few, _SET_UP_PER_S, processes=1)))
            stands.append(_Stand(kind, up, swarm))
            await stands[-1].fill(plan.few)
        for what, each in ("echo", 1), ("many", plan.each):
            say(f"calls to all in turns, {each} at a time")
            for turn in range(plan.turns + 1):
                for stand in stands if turn % 2 else reversed(stands):
                    await stand.call(plan.seconds / plan.turns, plan.in_flight, each)
                    if not turn:
                        stand.forget()
            for stand in stands:
                problems += filter(None, [stand.tell(what)])
                stand.forget()
    return {stand.kind: stand.figures for stand in stands}, problems
