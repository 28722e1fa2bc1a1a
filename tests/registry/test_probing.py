"""A crashed instance gets no traffic after a second; whoever answers stays, and whoever comes back is found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import pytest
from tests.registry.faulty import FaultyRegistry
from tests.registry.virtual import Town, run

from dougong.clock import Clock, SystemClock
from dougong.errors import Unavailable
from dougong.registry import (
    Discovery,
    Health,
    HealthBook,
    HealthRules,
    Instance,
    MemoryRegistry,
    Prober,
    Resolver,
    instance_key,
)
from dougong.registry import discovery as discovery_module

SERVICE = "shop.v1.Orders"


def address(port: int) -> str:
    return f"10.0.0.1:{port:05}"


def at(port: int, service: str = SERVICE, life: str = "first") -> Instance:
    return Instance(service=service, address=address(port), id=f"orders-{port}-{life}")


def ports(resolver: Resolver) -> list[int]:
    return [int(i.address.rpartition(":")[2]) for i in resolver.instances()]


class World:
    """A registry, instances under leases, and a client's discovery of them."""

    def __init__(self, clock: Clock, count: int, *, probing: bool = True) -> None:
        self.clock = clock
        self.registry = FaultyRegistry(MemoryRegistry(clock))
        self.town = Town(*map(address, range(count)))
        self.count = count
        self.discovery = Discovery(self.registry, clock=clock, random=Random(2), probe=self.town if probing else None)
        self.leases: dict[int, int] = {}
        self.resolver: Resolver

    async def put(self, instance: Instance, lease: int = 0) -> None:
        await self.registry.inner.put(instance_key(instance), msgspec.json.encode(instance), lease=lease)

    async def begin(self, *, lease_each: bool = True) -> Resolver:
        shared = (await self.registry.inner.grant(3600.0)).id
        for port in range(self.count):
            self.leases[port] = (await self.registry.inner.grant(3600.0)).id if lease_each else shared
            await self.put(at(port), self.leases[port])
        self.resolver = await self.discovery.resolve(SERVICE)
        await asyncio.sleep(0.1)
        return self.resolver

    async def call(self, port: int) -> None:
        """What a client's pool does when it finds nobody there."""
        if address(port) not in self.town.living:
            self.resolver.probe_failed(address(port))

    async def until(self, *expected: int) -> float:
        """When the table first has exactly these."""
        while ports(self.resolver) != list(expected):
            await self.resolver.changed()
        return asyncio.get_running_loop().time()


def told(count: int, tell: Callable[[World], Awaitable[None]], *, probing: bool = True, seed: int = 1) -> None:
    async def story(clock: Clock) -> None:
        world = World(clock, count, probing=probing)
        try:
            await tell(world)
        finally:
            await world.discovery.close()
            await world.registry.close()

    run(story, seed)


@pytest.mark.parametrize("hung", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_crashed_instance_gets_no_traffic_after_a_second(hung: bool, seed: int) -> None:
    async def tell(world: World) -> None:
        await world.begin()
        began = asyncio.get_running_loop().time()
        world.town.living.discard(address(1))
        if hung:
            world.town.hung.add(address(1))
        await world.call(1)
        assert await world.until(0, 2) - began <= 1.0
        assert not world.resolver.stale  # the registry is as good as ever: its lease has an hour to go

    told(3, tell, seed=seed)


def test_without_probes_it_would_get_traffic_until_its_lease_ends() -> None:
    """Ablation: the registry alone believes in an instance for as long as its lease."""

    async def tell(world: World) -> None:
        await world.begin()
        world.town.living.discard(address(1))
        await world.call(1)
        await asyncio.sleep(600.0)
        assert ports(world.resolver) == [0, 1, 2]
        await asyncio.sleep(3600.0)
        assert ports(world.resolver) != [0, 1, 2]

    told(3, tell, probing=False)


def test_a_failed_call_alone_takes_nobody_out() -> None:
    async def tell(world: World) -> None:
        resolver = await world.begin()
        version = resolver.version
        for _ in range(20):
            resolver.probe_failed(address(1))
            await asyncio.sleep(0.01)
        await asyncio.sleep(5.0)
        assert resolver.version == version
        assert 1 <= len(world.town.probes) <= 4  # doubts about the doubted add nothing

    told(3, tell)


def test_whoever_comes_back_is_called_again() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        world.town.living.discard(address(1))
        await world.call(1)
        await world.until(0, 2)
        await asyncio.sleep(60.0)
        asked = len(world.town.probes)
        assert asked < 25  # ever more seldom
        world.town.living.add(address(1))
        began = asyncio.get_running_loop().time()
        assert await world.until(0, 1, 2) - began <= HealthRules().backoff_max_s + 0.1

    told(3, tell)


def test_a_new_registration_is_believed_at_once() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        world.town.living.discard(address(1))
        await world.call(1)
        await world.until(0, 2)
        await asyncio.sleep(20.0)  # the next probe is seconds away
        world.town.living.add(address(1))
        began = asyncio.get_running_loop().time()
        await world.put(at(1, life="second"))
        assert await world.until(0, 1, 2) - began < 0.1

    told(3, tell)


def test_death_is_found_once_for_all_services_of_a_process() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        for port in range(3):
            await world.put(at(port, service="shop.v1.Users"))
        users = await world.discovery.resolve("shop.v1.Users")
        world.town.living.discard(address(1))
        await world.call(1)
        await world.until(0, 2)
        assert ports(users) == [0, 2]
        await world.put(at(1, service="shop.v1.Late"))
        late = await world.discovery.resolve("shop.v1.Late")  # known to be dead before it was first listed
        assert late.why().called[0].reason == "answers no probe, nor does anybody else: called in hope"
        assert len({a for _, a in world.town.probes}) == 1

    told(3, tell)


def test_when_all_are_dead_those_registered_are_called_in_hope() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        world.town.living.clear()
        for port in range(3):
            await world.call(port)
        await asyncio.sleep(2.0)
        assert ports(world.resolver) == [0, 1, 2]
        assert [s.health for s in world.resolver.why().called] == ["dead"] * 3
        world.town.living.add(address(2))
        await world.until(2)  # who is known to answer needs no hope

    told(3, tell)


def test_a_mass_that_vanished_is_asked_and_only_the_dead_go() -> None:
    """The registry lost eight of ten; five of those live. The five stay, the three dead go within a second."""

    async def tell(world: World) -> None:
        await world.begin(lease_each=False)
        for port in (8, 9):
            await world.put(at(port))  # on no lease
        await asyncio.sleep(0.1)
        world.town.living -= {address(port) for port in (0, 1, 2)}
        began = asyncio.get_running_loop().time()
        await world.registry.inner.revoke(world.leases[0])
        assert await world.until(*range(3, 10)) - began <= 1.0
        assert world.resolver.stale
        await asyncio.sleep(60.0)
        assert ports(world.resolver) == [*range(3, 10)]
        assert len(world.resolver.why().called) == 7
        world.town.living -= {address(3)}
        await world.until(*range(4, 10))  # nobody called it: it is asked now and then as long as it is a suspect

    told(10, tell)


def test_without_probes_time_would_take_the_living_too() -> None:
    """Ablation."""

    async def tell(world: World) -> None:
        await world.begin(lease_each=False)
        await world.put(at(9))
        await asyncio.sleep(0.1)
        await world.registry.inner.revoke(world.leases[0])
        await world.until(9)
        assert len(world.town.living) == 10

    told(10, tell, probing=False)


def test_suspects_that_answer_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "SUSPECT_ANSWERING_S", 30.0)

    async def tell(world: World) -> None:
        await world.begin(lease_each=False)
        await world.put(at(9))
        await asyncio.sleep(0.1)
        await world.registry.inner.revoke(world.leases[0])
        began = asyncio.get_running_loop().time()
        assert await world.until(9) - began >= 29.0

    told(10, tell)


def test_a_stale_table_shrinks_only_by_proof() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        world.registry.down = True
        await asyncio.sleep(100.0)
        assert (ports(world.resolver), world.resolver.stale) == ([0, 1, 2], True)
        world.town.living.discard(address(1))
        await world.call(1)
        await world.until(0, 2)
        assert world.resolver.why().excluded[0].reason == "answers no probe"
        world.registry.down = False
        await asyncio.sleep(10.0)
        assert (ports(world.resolver), world.resolver.stale) == ([0, 2], False)

    told(3, tell)


def test_few_probes_at_once_however_many_are_doubted() -> None:
    async def tell(world: World) -> None:
        await world.begin(lease_each=False)
        world.town.living.clear()
        await world.registry.inner.revoke(world.leases[0])
        await asyncio.sleep(5.0)
        assert world.town.at_once_max == 16
        assert {a for _, a in world.town.probes} == {address(port) for port in range(100)}

    told(100, tell)


def test_a_no_that_came_much_too_late_is_ours_and_proves_nothing() -> None:
    class Slow(Town):
        """This process stands still for seconds whenever it asks."""

        async def probe(self, address: str) -> bool:
            try:
                return await super().probe(address)
            finally:
                await asyncio.sleep(5.0)

    async def tell(world: World) -> None:
        slow = Slow()
        slow.hung = {address(1)}
        world.discovery = Discovery(world.registry, clock=world.clock, random=Random(2), probe=slow)
        await world.begin()
        world.resolver.probe_failed(address(1))
        await asyncio.sleep(60.0)
        assert len(slow.probes) > 5
        assert ports(world.resolver) == [0, 1, 2]
        assert [s.health for s in world.resolver.why().called] == ["alive", "doubted", "alive"]

    told(3, tell)


async def test_asking_everybody_ends_when_one_is_forgotten_meanwhile() -> None:
    town = Town("a:1")
    book = HealthBook(HealthRules(jitter_s=0.0), Random(1))
    prober = Prober(town, book, SystemClock(), known=lambda a: a != "gone:1", changed=lambda *_: None)
    running = asyncio.create_task(prober.run())
    async with asyncio.timeout(60.0):
        await prober.ask(["a:1", "gone:1", "b:1"])
    assert [prober.health(a) for a in ("a:1", "gone:1", "b:1")] == [Health.ALIVE, Health.ALIVE, Health.DEAD]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_nobody_asks_about_those_no_table_knows() -> None:
    async def tell(world: World) -> None:
        await world.begin()
        world.town.living.discard(address(1))
        await world.call(1)
        await world.until(0, 2)
        await world.registry.inner.revoke(world.leases[1])
        await asyncio.sleep(10.0)
        asked = len(world.town.probes)
        await asyncio.sleep(600.0)
        assert len(world.town.probes) == asked

    told(3, tell)


async def test_a_broken_prober_condemns_nobody() -> None:
    class Broken:
        async def probe(self, address: str) -> bool:
            raise ZeroDivisionError(address)

    heard: list[bool] = []
    await _asked(Broken(), heard)
    assert heard == []


@pytest.mark.parametrize("error", [Unavailable("no"), OSError("no")])
async def test_an_error_is_a_no(error: Exception) -> None:
    class Failing:
        async def probe(self, address: str) -> bool:
            raise error

    heard: list[bool] = []
    await _asked(Failing(), heard)
    assert heard == [False]


async def _asked(probe: object, heard: list[bool]) -> None:
    book = HealthBook(HealthRules(jitter_s=0.0), Random(1))
    prober = Prober(
        probe,  # type: ignore[arg-type]
        book,
        SystemClock(),
        known=lambda _: True,
        changed=lambda _, alive: heard.append(alive),
    )
    running = asyncio.create_task(prober.run())
    prober.doubt("a:1")
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert prober.health("a:1") is (Health.DEAD if heard else Health.DOUBTED)
