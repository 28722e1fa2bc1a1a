"""Those who are called: processes that start, register, fail or hang for a while, leave in good order, are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dougong.contract import Message, Service, batched, describe, rpc
from dougong.errors import Error, Unavailable
from dougong.registry import DrainRequest, Instance, InstanceState, ask_to_drain, drain_asked
from dougong.rpc import Server
from dougong.simulation.node import Main, Process
from dougong.simulation.stories.network.judging import Judge, Life
from dougong.simulation.stories.network.place import RemoteRegistry
from dougong.simulation.stories.network.without import registration_without

__all__ = ["HEALTH_PATH", "SERVICE", "Asked", "Done", "Fleet", "Slot", "Till"]

DRAIN_S = 3.0
TTL_S = 6.0
NOTED_S = 5.0
"""Who has not read the note by then is told in another way."""


class Asked(Message):
    number: int = 0


class Done(Message):
    number: int = 0
    by: str = ""


class Health(Service, package="story.v1"):
    """What probes ask."""

    def __init__(self, slot: Slot, life: Life) -> None:
        self._slot = slot
        self._life = life

    @rpc(public=True, idempotent=True, timeout_s=1.0)
    async def check(self, request: Asked) -> Done:
        await self._slot.passed(self._life)
        if self._life.leaving:
            raise Unavailable("it leaves", code="not_serving")
        return Done()


class Till(Service, package="story.v1"):
    """What is called: each kind of method there is."""

    def __init__(self, judge: Judge, slot: Slot, life: Life) -> None:
        self._judge = judge
        self._slot = slot
        self._life = life

    @rpc(public=True, idempotent=True, timeout_s=1.5)
    async def look(self, request: Asked) -> Done:
        return await self._do(request)

    @rpc(public=True, timeout_s=1.5)
    async def pay(self, request: Asked) -> Done:
        return await self._do(request)

    @batched(max_batch=4, public=True, idempotent=True, timeout_s=1.5)
    async def look_many(self, requests: Sequence[Asked]) -> Sequence[Done | Error]:
        return await self._do_all(requests)

    @batched(max_batch=4, public=True, timeout_s=1.5)
    async def pay_many(self, requests: Sequence[Asked]) -> Sequence[Done | Error]:
        return await self._do_all(requests)

    async def _do(self, request: Asked) -> Done:
        await self._slot.passed(self._life)
        if self._life.failing:
            raise Unavailable("it is out of order", code="out_of_order")
        self._judge.executes(request.number, self._life)
        await asyncio.sleep(self._slot.work_s())
        return Done(number=request.number, by=self._life.name)

    async def _do_all(self, requests: Sequence[Asked]) -> Sequence[Done | Error]:
        await self._slot.passed(self._life)
        if self._life.failing:
            return [Unavailable("it is out of order", code="out_of_order")] * len(requests)
        for request in requests:
            self._judge.executes(request.number, self._life)
        await asyncio.sleep(self._slot.work_s())
        return [Done(number=request.number, by=self._life.name) for request in requests]


SERVICE = describe(Till).name
HEALTH_PATH = describe(Health).methods[0].path


class Slot:
    """One of the fleet: a name that one process after the other bears, each of a higher epoch."""

    def __init__(self, fleet: Fleet, node: str, name: str) -> None:
        self._fleet = fleet
        self._judge = fleet.judge
        self.node = fleet.judge.world.node(node)
        self._name = name
        self._draw = self._judge.world.stream(f"slot {node}")
        self.port = 1
        self.life: Life | None = None
        self._leave = asyncio.Event()
        self._hung: asyncio.Event | None = None

    def crash(self, back_after_s: float) -> None:
        """Its machine fails."""
        self.node.crash()
        self._judge.world.later(back_after_s, self._back)

    def _back(self) -> None:
        if self.node.started and not self.node.up:
            self.node.restart()

    @property
    def main(self) -> Main:
        return self._serve

    def work_s(self) -> float:
        return self._draw.random() ** 4 * 0.8

    async def passed(self, life: Life) -> None:
        """Wait for as long as the process stands still."""
        while self._hung is not None and self.life is life:
            await self._hung.wait()

    def hang(self) -> None:
        self._hung = asyncio.Event()

    def go_on(self) -> None:
        hung, self._hung = self._hung, None
        if hung is not None:
            hung.set()

    def heal(self) -> None:
        """All is well again."""
        self.go_on()
        if self.life is not None:
            self.life.failing = False

    async def leave(self, timeout_s: float) -> bool:
        """Have the process leave in good order; whether it is gone, or stuck for so long that it is to be killed."""
        life = self.life
        if life is None or not life.serves:
            return False
        noted_s = NOTED_S if self._fleet.notes else 0.0
        if noted_s:
            self._fleet.ask_to_leave(life)
        for tick in range(int(timeout_s / 0.25)):
            if tick * 0.25 >= noted_s:
                if noted_s and not self._leave.is_set() and not self._judge.world.faults.happened:
                    self._judge.wrong(life.name, "did not leave, although it was asked to")
                self._leave.set()
            await asyncio.sleep(0.25)
            if life.gone or not life.process.alive:
                break
        return life.process.alive

    async def _serve(self, process: Process) -> None:
        fleet, judge, world = self._fleet, self._judge, self._judge.world
        self.go_on()
        self._leave = asyncio.Event()
        if process.number > 1 and self._draw.random() < 0.3:
            self.port += 1
        address = f"{self.node.name}:{self.port}"
        instance = Instance(service=SERVICE, address=address, id=self._name, epoch=fleet.next_epoch(self._name))
        life = self.life = judge.lives[address] = Life(process, instance)
        registry = RemoteRegistry(process)
        server = Server([Till(judge, self, life), Health(self, life)], transport=process.transport)
        await server.start(address)
        registration = registration_without(fleet.without)(registry, [instance], ttl_s=TTL_S, random=process.random)
        await registration.start()
        asking = asyncio.create_task(self._asked(process, registry)) if fleet.notes else None
        await self._leave.wait()
        if asking is not None:
            asking.cancel()
        life.leaving = True
        world.note(self.node.name, f"{life.name} leaves")
        await registration.set_state(InstanceState.TERMINATING)
        if fleet.without != "drain":
            await server.drain(DRAIN_S)
        await registration.stop()
        await server.stop()
        life.gone = True
        judge.seen["left"] += 1

    async def _asked(self, process: Process, registry: RemoteRegistry) -> None:
        assert self.life is not None
        await drain_asked(registry, self.life.name, random=process.random)
        self._judge.seen["left by note"] += 1
        self._leave.set()


class Fleet:
    """All who serve."""

    def __init__(self, judge: Judge, without: str, count: int, *, notes: bool) -> None:
        """`notes`: who is to leave is asked by a note in the registry, as people do."""
        self.judge = judge
        self.without = without
        self.notes = notes
        self._epochs: dict[str, int] = {}
        self.slots = [Slot(self, f"till-{number}", f"t{number}") for number in range(count)]
        self.spares: list[Slot] = []

    @property
    def all(self) -> list[Slot]:
        return [*self.slots, *self.spares]

    def next_epoch(self, name: str) -> int:
        epoch = self._epochs[name] = self._epochs.get(name, 0) + 1
        return epoch

    def expected(self) -> set[str]:
        """Addresses of those that every client should come to call."""
        return {
            slot.life.instance.address
            for slot in self.all
            if slot.life is not None
            and slot.life.serves
            and slot.life.instance.epoch == self._epochs[slot.life.instance.id]
        }

    def ask_to_leave(self, life: Life) -> None:
        """As `dougong services drain` does."""

        async def ask(process: Process) -> None:
            request = DrainRequest(life.name, asked_at_us=process.clock.now_us())
            try:
                await ask_to_drain(RemoteRegistry(process), request)
            except (Error, TimeoutError) as error:
                process.note(f"nobody takes the note: {error}")

        operator = self.judge.world.node("operator", crashes=False)
        operator.stop()
        operator.start(ask)

    def replace(self, number: int) -> Slot:
        """Somebody takes a process for dead and starts another of its name elsewhere."""
        name = f"t{number}"
        spare = Slot(self, f"spare-{len(self.spares)}", name)
        self.spares.append(spare)
        spare.node.start(spare.main)
        return spare
