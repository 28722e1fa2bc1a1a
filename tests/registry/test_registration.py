"""Registration: in the registry for as long as the process lives, whatever becomes of the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import msgspec
import pytest
from tests.registry.faulty import FaultyRegistry

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unavailable
from dougong.registry import ChangeKind, Instance, InstanceState, MemoryRegistry, Registration
from dougong.registry import registration as registration_module
from dougong.registry.keys import encode_instance, instance_key, read_instance

ORDERS = Instance(service="shop.v1.Orders", address="127.0.0.1:1", id="orders-0-1")
STOCK = Instance(service="shop.v1.Stock", address="127.0.0.1:1", id="orders-0-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def registry(clock: ManualClock) -> AsyncIterator[FaultyRegistry]:
    made = FaultyRegistry(MemoryRegistry(clock))
    yield made
    await made.close()


@pytest.fixture
async def registration(registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registration]:
    """Renews every 10 ms; on the registry's clock, which the tests move, its leases live 30 s."""
    monkeypatch.setattr(registration_module, "RENEWALS_PER_TTL", 3000)
    made = Registration(registry, [ORDERS, STOCK], ttl_s=30, random=Random(1))
    yield made
    registry.down = registry.frozen = False
    await made.stop()


async def states(registry: FaultyRegistry) -> list[str]:
    listed = (await registry.inner.list("/services/")).items
    found = [read_instance(item.key, item.value) for item in listed]
    return [instance.state.value for instance in found if instance is not None]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_all_instances_hang_on_one_lease(registry: FaultyRegistry, registration: Registration) -> None:
    before = registration.registered
    await registration.start()
    await registration.start()
    assert (before, registration.registered) == (False, True)
    items = (await registry.list("/")).items
    assert [item.key for item in items] == [
        "/services/shop.v1.Orders/127.0.0.1:1",
        "/services/shop.v1.Stock/127.0.0.1:1",
    ]
    assert {item.lease for item in items} == {registration.lease}
    assert read_instance(items[0].key, items[0].value) == ORDERS
    assert registration.instances == (ORDERS, STOCK)


async def test_it_lives_on_by_renewing(
    registry: FaultyRegistry, registration: Registration, clock: ManualClock
) -> None:
    await registration.start()
    for _ in range(5):
        clock.advance(20)
        renewals = registry.calls.count("keep_alive")
        await until(lambda renewals=renewals: registry.calls.count("keep_alive") >= renewals + 2)  # type: ignore[misc]
    assert registration.grants == 1
    assert await states(registry) == ["serving", "serving"]


async def test_without_renewing_it_would_vanish(
    registry: FaultyRegistry, registration: Registration, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: the keys are there because of the renewals."""
    monkeypatch.setattr(registration_module, "RENEWALS_PER_TTL", 0.001)
    await registration.start()
    clock.advance(30)
    assert await states(registry) == []


async def test_a_lease_revoked_behind_its_back_is_granted_anew(
    registry: FaultyRegistry, registration: Registration
) -> None:
    await registration.start()
    for grants in (2, 3):
        lost = registration.lease
        await registry.inner.revoke(lost)
        assert await states(registry) == []
        await until(lambda grants=grants: registration.grants == grants and registration.registered)  # type: ignore[misc]
        assert registration.lease != lost
        assert await states(registry) == ["serving", "serving"]


async def test_an_entry_that_was_deleted_or_overwritten_is_put_again(
    registry: FaultyRegistry, registration: Registration
) -> None:
    """A predecessor's last put may arrive when its successor has put already, and goes with the predecessor's lease."""
    await registration.start()
    key = instance_key(STOCK)
    await registry.inner.delete(key)
    await until(lambda: registry.calls.count("put") == 4)
    late = await registry.inner.grant(30)
    await registry.inner.put(key, encode_instance(msgspec.structs.replace(STOCK, id="orders-0-0")), lease=late.id)
    await until(lambda: registry.calls.count("put") == 6)
    await registry.inner.revoke(late.id)
    assert await states(registry) == ["serving", "serving"]
    assert registration.grants == 1


async def test_without_looking_it_would_be_lost(
    registry: FaultyRegistry, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: its lease alone does not say that the entry is there."""

    async def blind(self: Registration, lease: int) -> None: ...

    monkeypatch.setattr(Registration, "_look", blind)
    await registration.start()
    await registry.inner.delete(instance_key(STOCK))
    renewals = registry.calls.count("keep_alive")
    await until(lambda: registry.calls.count("keep_alive") >= renewals + 3)
    assert await states(registry) == ["serving"]


async def test_a_successor_is_left_alone(registry: FaultyRegistry, registration: Registration) -> None:
    await registration.start()
    successor = msgspec.structs.replace(STOCK, epoch=1)
    lease = await registry.inner.grant(30)
    await registry.inner.put(instance_key(STOCK), encode_instance(successor), lease=lease.id)
    renewals = registry.calls.count("keep_alive")
    await until(lambda: registry.calls.count("keep_alive") >= renewals + 3)
    (entry,) = (await registry.inner.list(instance_key(STOCK))).items
    assert (entry.lease, read_instance(entry.key, entry.value)) == (lease.id, successor)


async def test_a_lease_lost_between_renewal_and_put_is_granted_anew(
    registry: FaultyRegistry, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registration.start()
    lost = registration.lease

    async def optimist(lease: int) -> float:
        return 30.0

    monkeypatch.setattr(registry, "keep_alive", optimist)
    await registry.inner.revoke(lost)
    setting = asyncio.ensure_future(registration.set_state(InstanceState.TERMINATING))
    await until(lambda: registration.grants == 2)
    await setting
    assert await states(registry) == ["terminating", "terminating"]


async def test_a_silent_registry_is_tried_for_ever(registry: FaultyRegistry, registration: Registration) -> None:
    registry.down = True
    await registration.start()  # returns all the same
    assert not registration.registered
    with pytest.raises(Unavailable) as raised:
        await registration.wait(timeout_s=0.01)
    assert raised.value.code == "not_registered"
    await until(lambda: registry.calls.count("grant") >= 3)
    registry.down = False
    await registration.wait(timeout_s=10)
    assert await states(registry) == ["serving", "serving"]


async def test_a_short_silence_costs_no_lease(registry: FaultyRegistry, registration: Registration) -> None:
    await registration.start()
    lease = registration.lease
    registry.down = True
    await registration.set_state(InstanceState.TERMINATING)  # could not be told, and returns
    assert await states(registry) == ["serving", "serving"]
    failed = len(registry.calls)
    await until(lambda: len(registry.calls) >= failed + 2)
    registry.down = False
    async with asyncio.timeout(60):
        while await states(registry) != ["terminating", "terminating"]:
            await asyncio.sleep(0.001)
    assert registration.lease == lease
    assert registration.grants == 1


async def test_a_call_that_hangs_ends_with_the_lease(registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer must not be the last to believe that he is registered."""
    monkeypatch.setattr(registration_module, "CALL_S_MAX", 600.0)
    registration = Registration(registry, [ORDERS], ttl_s=0.3, random=Random(1))
    await registration.start()
    registry.frozen = True
    await until(lambda: not registration.registered)
    registry.frozen = False
    await registration.stop()


async def test_a_long_silence_ends_in_a_new_lease(registry: FaultyRegistry) -> None:
    registration = Registration(registry, [ORDERS], ttl_s=0.05)
    await registration.start()
    registry.down = True
    await until(lambda: not registration.registered)
    registry.down = False
    await registration.wait(timeout_s=10)
    assert registration.grants >= 2
    assert await states(registry) == ["serving"]
    await registration.stop()


async def test_states_are_written_down_at_once(registry: FaultyRegistry) -> None:
    registration = Registration(registry, [ORDERS, STOCK], ttl_s=3600)
    await registration.set_state(InstanceState.STARTING)
    await registration.start()
    assert await states(registry) == ["starting", "starting"]
    await registration.set_state(InstanceState.SERVING)
    assert await states(registry) == ["serving", "serving"]
    await asyncio.gather(*(registration.set_state(state) for state in InstanceState))
    assert await states(registry) == [list(InstanceState)[-1].value] * 2
    await registration.stop()


async def test_stop_says_goodbye_first(registry: FaultyRegistry, registration: Registration) -> None:
    await registration.start()
    since = (await registry.list("/")).revision + 1
    await registration.stop()
    await registration.stop()
    assert await states(registry) == []
    seen: list[str] = []
    async for changes in registry.inner.watch("/services/shop.v1.Orders/", since):
        for change in changes:
            put = change.kind is ChangeKind.PUT
            seen.append(read_instance(change.key, change.value).state.value if put else change.kind.value)
        if len(seen) == 2:
            break
    assert seen == ["terminating", "delete"]
    assert not registration.registered


async def test_stop_does_not_wait_for_a_registry_that_hangs(
    registry: FaultyRegistry, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_module, "CALL_S_MAX", 0.02)
    await registration.start()
    registry.frozen = True
    async with asyncio.timeout(60):
        await registration.stop()


async def test_what_cannot_be_registered_is_refused_at_once(registry: FaultyRegistry) -> None:
    with pytest.raises(Invalid, match="invalid_ttl"):
        Registration(registry, [ORDERS], ttl_s=0)
    with pytest.raises(Invalid, match="invalid_service_name"):
        Registration(registry, [Instance(service="", address="h:1")])


@pytest.mark.parametrize("when", ["at the start", "renewing"])
async def test_a_fault_in_one_round_does_not_end_it(
    when: str, registry: FaultyRegistry, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_module, "BACKOFF_S_MAX", 0.01)
    if when == "at the start":
        registry.faults = 2
        await registration.start()
        assert not registration.registered
    else:
        await registration.start()
        registry.faults = 2
        await until(lambda: not registry.faults)
    await registration.wait(60)
    assert await states(registry)
