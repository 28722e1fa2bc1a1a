"""When a shard changes hands: the watch, and the row on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dougong.clock import ManualClock
from dougong.errors import Invalid, Overloaded, Unavailable
from dougong.shard import ClockMovedBack, IdMinter, IdSettings, unpack_id
from dougong.shard.id_leases import ID_LEASES, IdLease, IdLeases, Watch
from dougong.shard.ids import EPOCH_MS
from dougong.store import Store, open_store

Open = Callable[[], Awaitable[Store]]
LEASES = IdLeases(17)


@pytest.fixture
async def open_again(fresh_url: Callable[[], str]) -> AsyncIterator[Open]:
    """Opens one database, on every engine in turn, as another process would."""
    url, opened = fresh_url(), list[Store]()

    async def open_one() -> Store:
        opened.append(await open_store(url))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_again: Open) -> Store:
    store = await open_again()
    await store.migrate("dougong.shard.ids", ID_LEASES)
    return store


async def take(store: Store, seen: IdLease, holder: str, mark_ms: int) -> IdLease | None:
    return await store.write(lambda tx: LEASES.take(tx, seen, holder, mark_ms, 10_000))


def minter(store: Store, holder: str, clock: ManualClock, *, ttl_s: float = 3600.0) -> IdMinter:
    return IdMinter(store, 17, holder=holder, clock=clock, settings=IdSettings(ttl_s=ttl_s))


def test_a_row_has_to_stand_still_for_its_holders_term() -> None:
    watch, held = Watch(), IdLease(epoch=1, holder="a", renewals=1, mark_ms=5, ttl_ms=10_000)
    assert watch.wait_s(held, "b", 100.0) == 10.0
    assert watch.wait_s(held, "b", 104.0) == 6.0
    renewed = IdLease(epoch=1, holder="a", renewals=2, mark_ms=5, ttl_ms=8000)
    assert watch.wait_s(renewed, "b", 109.0) == 8.0
    assert watch.wait_s(renewed, "b", 116.9) == pytest.approx(0.1)
    assert watch.wait_s(renewed, "b", 117.0) == 0.0


def test_what_nobody_holds_or_who_asks_holds_may_be_taken_at_once() -> None:
    for free in (
        IdLease(),
        IdLease(epoch=4, holder="", renewals=9, mark_ms=5, ttl_ms=10_000),
        IdLease(1, "b", 0, 5, 9),
    ):
        assert Watch().wait_s(free, "b", 0.0) == 0.0


async def test_of_two_who_saw_the_same_row_one_gets_it(store: Store) -> None:
    seen = await store.read(LEASES.read)
    assert seen == IdLease()
    taken = await asyncio.gather(*(take(store, seen, holder, 100) for holder in "abc"))
    (won,) = [lease for lease in taken if lease is not None]
    assert (won.epoch, won.mark_ms) == (1, 100)
    assert await store.read(LEASES.read) == won
    again = await take(store, won, "d", 50)
    assert again is not None
    assert (again.epoch, again.mark_ms) == (2, 100), "the mark never falls when a shard is taken"


async def test_a_late_renewal_or_release_changes_nothing(store: Store) -> None:
    old = await take(store, IdLease(), "a", 100)
    assert old is not None
    assert await store.write(lambda tx: LEASES.renew(tx, 1, 200))
    assert await store.write(lambda tx: LEASES.renew(tx, 1, 150))
    seen = await store.read(LEASES.read)
    assert (seen.renewals, seen.mark_ms) == (2, 200)
    new = await take(store, seen, "b", 300)
    assert not await store.write(lambda tx: LEASES.renew(tx, 1, 900))
    await store.write(lambda tx: LEASES.release(tx, 1, 0))
    assert await store.read(LEASES.read) == new
    await store.write(lambda tx: LEASES.release(tx, 2, 250))
    released = await store.read(LEASES.read)
    assert (released.epoch, released.holder, released.mark_ms) == (2, "", 250)
    assert not await store.write(lambda tx: LEASES.renew(tx, 2, 900)), "given back is given back"


async def test_a_shard_goes_from_hand_to_hand_without_a_wait_and_without_a_repeated_id(open_again: Open) -> None:
    clock, first, second = ManualClock(), await open_again(), await open_again()
    one, other = minter(first, "one", clock), minter(second, "other", clock)
    await one.start()
    await one.wait(10)
    ids = [one.one(), *await one.take(20_000), one.one(aligned=True)]
    await other.start()
    with pytest.raises(Unavailable) as caught:
        other.one()
    assert caught.value.code == "no_lease"
    with pytest.raises(Unavailable):
        await other.wait(0.0)
    await one.stop()
    with pytest.raises(Unavailable):
        one.one()
    await other.stop()
    await other.start()  # looks at once, so that nobody waits for a poll here
    await other.wait(10)
    assert other.epoch == 2
    ids += [other.one(), *await other.take(20_000)]
    assert ids == sorted(set(ids))
    assert unpack_id(ids[-1]).time_ms - (clock.now_us() // 1000 - EPOCH_MS) <= 5
    await other.stop()


async def test_two_processes_contend_and_the_loser_takes_over_when_the_winner_dies(open_again: Open) -> None:
    """One clock for both, moved by hand: the term ends when it says so, and not before."""
    clock, stores = ManualClock(), [await open_again(), await open_again()]
    both = [minter(store, "same name", clock, ttl_s=0.5) for store in stores]
    await asyncio.gather(*(some.start() for some in both))
    while not any(some.epoch for some in both):
        await asyncio.sleep(0.01)
    (winner,) = (some for some in both if some.epoch)
    (loser,) = (some for some in both if some is not winner)
    ids = list(await winner.take(1000))
    assert winner._task is not None
    winner._task.cancel()  # as a process that has stopped running: it neither renews nor releases
    await asyncio.gather(winner._task, return_exceptions=True)
    assert winner.one() > ids[-1], "until its term ends nobody else mints"
    clock.advance(0.475)
    with pytest.raises(Unavailable):
        winner.one()
    while not loser.epoch:
        clock.advance(0.1)
        await asyncio.sleep(0.05)
    clock.advance(0.2)  # past the mark that the winner left
    ids += await loser.take(1000)
    assert ids == sorted(set(ids))
    await loser.stop()
    winner._task = None


async def test_after_a_crash_the_next_life_waits_past_the_mark(open_again: Open) -> None:
    clock, store = ManualClock(), await open_again()
    seen = clock.now_us() // 1000 - EPOCH_MS
    await store.migrate("dougong.shard.ids", ID_LEASES)
    await take(store, IdLease(), "", seen + 600)  # so far somebody may have minted
    async with minter(store, "next", clock) as ids:
        await ids.wait(10)
        with pytest.raises(Exception, match="ahead of the clock") as caught:
            ids.one()
        assert caught.value.retry_after_s == 0.5  # type: ignore[attr-defined]
        clock.advance(0.5)
        assert unpack_id(ids.one()).time_ms == seen + 600


async def test_waiting_has_an_end_even_where_the_clock_stands_still(open_again: Open) -> None:
    store = await open_again()
    settings = IdSettings(ttl_s=3600.0, lead_ms_max=10, wait_ms_max=20)
    async with IdMinter(store, 17, holder="a", clock=ManualClock(), settings=settings) as ids:
        await ids.wait(10)
        await ids.take(163_840)
        await ids.take(16_384)
        with pytest.raises(Overloaded):
            await ids.take(1)


async def test_a_clock_far_behind_the_mark_is_refused(open_again: Open) -> None:
    clock, store = ManualClock(), await open_again()
    await store.migrate("dougong.shard.ids", ID_LEASES)
    mark_ms = clock.now_us() // 1000 - EPOCH_MS + 3_600_000
    await take(store, IdLease(), "", mark_ms)
    async with minter(store, "next", clock) as ids:
        await ids.wait(10)
        with pytest.raises(ClockMovedBack) as caught:
            await ids.take(5)
        assert caught.value.retry_after_s == 3600 - 0.1
    assert (await store.read(LEASES.read)).mark_ms == mark_ms, "giving it back did not lower what was found"


async def test_a_clock_that_jumps_forward_waits_for_the_mark_and_no_longer(open_again: Open) -> None:
    clock, store = ManualClock(), await open_again()
    async with minter(store, "a", clock) as ids:
        await ids.wait(10)
        before = ids.one()
        clock.set_now_us(clock.now_us() + 86_400_000_000)
        with pytest.raises(Unavailable) as caught:
            ids.one()
        assert caught.value.code == "mark_reached"
        (after,) = await ids.take(1)
        assert unpack_id(after).time_ms - unpack_id(before).time_ms == 86_400_000
        assert (await store.read(LEASES.read)).mark_ms > unpack_id(after).time_ms


async def test_what_cannot_be_asked_for(store: Store) -> None:
    for holder in ("", "x" * 151):
        with pytest.raises(Invalid):
            IdMinter(store, 17, holder=holder)
    with pytest.raises(Invalid):
        IdSettings(ttl_s=0.0)
    with pytest.raises(Invalid):
        IdSettings(lead_ms_max=0)
    with pytest.raises(Invalid):
        IdSettings(wait_ms_max=-1)
    ids = IdMinter(store, 17, holder="a")
    await ids.stop()
    with pytest.raises(Unavailable):
        await ids.take(1)


async def test_a_database_that_cannot_be_reached_is_asked_again(open_again: Open) -> None:
    gone = await open_again()
    await gone.close()
    ids = minter(gone, "a", ManualClock())
    await ids.start()
    with pytest.raises(Unavailable) as caught:
        ids.one()
    assert caught.value.code == "no_lease"
    await ids.stop()
