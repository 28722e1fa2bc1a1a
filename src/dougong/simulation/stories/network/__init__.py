"""Clients find servers through a registry and call them under policy, while all three and the network fail.

Servers start, leave in good order, crash, stand still, answer 503 for a while and are replaced by others of their name.
The registry hangs, forgets, and loses leases. Each client has a routing table that is fed by watches and probes, and
ejects, limits and repeats as a DestinationRule says. What a client sends where is held against what it was told.

In a world without a fault no call fails, whoever comes and goes. In every world, when all is well again, each client
has called everybody who serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dougong.simulation.faults import Chaos
from dougong.simulation.stories.network.calling import Client, Settings, judge_calls
from dougong.simulation.stories.network.judging import Judge
from dougong.simulation.stories.network.place import Place
from dougong.simulation.stories.network.serving import Fleet, Slot
from dougong.simulation.stories.network.without import SAFEGUARDS
from dougong.simulation.story import Story
from dougong.simulation.world import World

__all__ = ["Tale", "story"]

BUSY_S = 12.0
LEAVE_S = 20.0
"""Who leaves tells a registry that may be silent, twice, and drains in between; beyond it is killed."""
TABLES_S = 12.0
"""A call to the registry that was lost takes 5 s to be given up and is repeated after up to 5 s more: by instances to
register, by clients to list."""
REFRESH_S = 36.0
"""In a registry that came back empty a watch may wait for revisions that are far away: until the next listing."""
CALLS_S = 15.0
"""Ejections end, and chance has to bring a call to everybody."""


class Tale:
    def __init__(self, world: World, without: str) -> None:
        draw = world.random
        self.world = world
        self.judge = Judge(world)
        self.fleet = Fleet(self.judge, without, draw.randint(3, 5), notes=draw.random() < 0.3)
        self.place = Place(world, self.fleet.slots)
        self.settings = Settings(draw)
        self.clients = [Client(self.judge, f"client-{n}", self.settings, without) for n in range(draw.randint(1, 3))]

    async def tell(self) -> Sequence[str]:
        world, judge = self.world, self.judge
        if world.random.random() < 0.2:
            world.heal()
        tasks = [self.place.start()]
        for slot in self.fleet.slots:
            slot.node.start(slot.main)
        await asyncio.sleep(1.0)
        for client in self.clients:
            world.node(client.name).start(client.main)
        await asyncio.sleep(1.0)
        deploying = world.spawn(self._deploy())
        tasks += [world.spawn(self._ail(number, slot)) for number, slot in enumerate(self.fleet.slots)]
        await asyncio.sleep(BUSY_S)
        for task in tasks:
            task.cancel()
        world.heal()
        self.place.heal()
        for slot in self.fleet.all:
            slot.heal()
        await deploying
        await self._settle()
        calm = not world.faults.happened
        return [*judge.found, *judge_calls(judge, world.history.calls, calm=calm)]

    async def _deploy(self) -> None:
        """One after the other leaves, and a new one starts there."""
        draw = self.world.stream("deploy")
        while self.world.now_s < 2.0 + BUSY_S:
            await asyncio.sleep(draw.random() * 4)
            slot = draw.choice(self.fleet.slots)
            if not await slot.leave(LEAVE_S):
                continue
            slot.node.stop()
            await asyncio.sleep(draw.random())
            slot.node.start(slot.main)
            await asyncio.sleep(1.0)

    async def _ail(self, number: int, slot: Slot) -> None:
        """What befalls one instance that is no crash."""
        source = self.world.faults.source(f"ailing {number}", slot.node.name)
        draw = source.random
        often_s = draw.choice((0.0, 8.0, 20.0))
        while often_s:
            wait_s, kind, how = draw.expovariate(1 / often_s), draw.choice(("503", "hangs", "replaced")), draw.random()
            await asyncio.sleep(wait_s)
            life = slot.life
            if life is None or not life.serves or not source.allow(f"{kind} {how:.3f}"):
                continue
            match kind:
                case "503":
                    life.failing = True
                    await asyncio.sleep(how * 8)
                    life.failing = False
                case "hangs":
                    slot.hang()
                    await asyncio.sleep(how * 6)
                    slot.go_on()
                case _:
                    if len(self.fleet.spares) < 2:
                        self.fleet.replace(number)
                        await asyncio.sleep(4.0)

    async def _settle(self) -> None:
        """Until every client calls everybody who serves."""
        world, expected = self.world, self.fleet.expected
        tables_s = REFRESH_S if self.place.replaced else TABLES_S
        if not await self._until(tables_s, lambda client: client.calls() == expected()):
            for client in self.clients:
                if client.calls() != expected():
                    self.judge.wrong(
                        client.name,
                        f"{tables_s:.0f} s after all is well it calls {sorted(client.calls())}"
                        f" where {sorted(expected())} serve",
                    )
            return
        self.settings.hurried = True
        for client in self.clients:
            client.reached.clear()
        if not await self._until(CALLS_S, lambda client: client.reached >= expected()):
            for client in self.clients:
                if missing := expected() - client.reached:
                    self.judge.wrong(client.name, f"in {CALLS_S:.0f} s it never reached {sorted(missing)}")
        world.note("world", "settled")

    async def _until(self, within_s: float, condition: Callable[[Client], bool]) -> bool:
        for _ in range(int(within_s * 4)):
            if all(condition(client) for client in self.clients):
                return True
            await asyncio.sleep(0.25)
        return False


async def _tell(world: World, without: str) -> Sequence[str]:
    return await Tale(world, without).tell()


story = Story(
    name="network",
    title="clients, servers and a registry that find and lose each other, under policy",
    tell=_tell,
    safeguards=SAFEGUARDS,
    chaos=Chaos(
        crash_every_s=12.0,
        down_s=1.5,
        partition_every_s=60.0,
        partition_s=3.0,
        delay_s=0.05,
        request_lost=0.01,
        answer_lost=0.01,
        request_twice=0.01,
        request_late=0.01,
        stream_broken=0.005,
        clock_skew_s=2.0,
        clock_jump_every_s=15.0,
        clock_jump_s=5.0,
    ),
)
