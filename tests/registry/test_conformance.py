"""What every registry does, whatever stands behind it: etcd's semantics on one page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import pytest

from dougong.errors import Conflict, Invalid, NotFound, Unavailable
from dougong.registry import Change, ChangeKind, Compacted, KeyValue, Registry

if TYPE_CHECKING:
    from tests.registry.conftest import Harness

Watch = AsyncIterator[Sequence[Change]]


async def following(watch: Watch) -> tuple[Change, ...]:
    async with asyncio.timeout(60):
        return tuple(await anext(watch))


async def drain(watch: Watch) -> None:
    while True:
        await following(watch)


async def keys(registry: Registry, prefix: str = "/") -> list[str]:
    return [item.key for item in (await registry.list(prefix)).items]


class TestKeys:
    async def test_every_change_takes_the_next_revision(self, registry: Registry) -> None:
        assert (await registry.list("/")).revision == 0
        assert await registry.put("/a", b"1") == 1
        assert await registry.put("/b", b"1") == 2
        assert await registry.put("/a", b"2") == 3
        assert await registry.delete("/b") is True
        listing = await registry.list("/")
        assert listing.items == (KeyValue("/a", b"2", create_revision=1, mod_revision=3),)
        assert listing.revision == 4

    async def test_what_changes_nothing_takes_no_revision(self, registry: Registry) -> None:
        await registry.put("/a", b"1")
        assert await registry.delete("/b") is False
        lease = await registry.grant(10)
        await registry.keep_alive(lease.id)
        await registry.revoke(lease.id)
        assert (await registry.list("/")).revision == 1

    async def test_deleted_and_put_again_is_a_new_key(self, registry: Registry) -> None:
        await registry.put("/a", b"1")
        await registry.delete("/a")
        await registry.put("/a", b"1")
        assert (await registry.list("/")).items[0].create_revision == 3

    async def test_a_listing_is_sorted_and_ends_with_its_prefix(self, registry: Registry) -> None:
        for key in ["/s/B/2", "/s/A/2", "/s/A/1", "/s/AB/1", "/s/A", "/s/A/\U0010ffff", "/s/A/é"]:
            await registry.put(key, b"")
        assert await keys(registry, "/s/A/") == ["/s/A/1", "/s/A/2", "/s/A/é", "/s/A/\U0010ffff"]
        assert len(await keys(registry, "")) == 7
        assert await keys(registry, "/s/A/\U0010ffff") == ["/s/A/\U0010ffff"]

    async def test_values_are_bytes_of_any_kind(self, registry: Registry) -> None:
        await registry.put("/a", bytes(range(256)))
        await registry.put("/b", b"")
        assert [item.value for item in (await registry.list("/")).items] == [bytes(range(256)), b""]

    async def test_create_refuses_what_exists(self, registry: Registry) -> None:
        assert await registry.create("/lock", b"me") == 1
        with pytest.raises(Conflict) as raised:
            await registry.create("/lock", b"you")
        assert raised.value.code == "key_exists"
        assert raised.value.fields["create_revision"] == 1
        assert (await registry.list("/lock")).items[0].value == b"me"
        await registry.delete("/lock")
        assert await registry.create("/lock", b"you") == 3

    @pytest.mark.parametrize("key", ["", "x" * 1025, "a\0b", "\ud800"])
    async def test_bad_keys_are_refused(self, registry: Registry, key: str) -> None:
        with pytest.raises(Invalid, match="invalid_key"):
            await registry.put(key, b"")
        with pytest.raises(Invalid, match="invalid_key"):
            await registry.create(key, b"")

    async def test_large_values_are_refused(self, registry: Registry) -> None:
        await registry.put("/a", bytes(64 * 1024))
        with pytest.raises(Invalid, match="value_too_large"):
            await registry.put("/a", bytes(64 * 1024 + 1))


class TestLeases:
    async def test_a_lease_lives_from_its_last_renewal(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/a", b"", lease=lease.id)
        for _ in range(3):
            await harness.pass_time(9)
            assert await registry.keep_alive(lease.id) == lease.ttl_s
        await harness.pass_time(9.9)
        assert await keys(registry) == ["/a"]
        await harness.pass_time(0.2)
        assert await keys(registry) == []

    async def test_keep_alive_of_a_dead_lease_answers_zero(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        await harness.pass_time(10)
        assert await registry.keep_alive(lease.id) == 0.0
        assert await registry.keep_alive(4711) == 0.0

    async def test_time_up_means_dead_even_if_nobody_cleaned_up(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/a", b"", lease=lease.id)
        harness.clock.advance(10)
        assert await registry.keep_alive(lease.id) == 0.0
        assert await keys(registry) == []

    async def test_all_keys_of_a_lease_go_at_one_revision(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        for key in ["/c", "/a", "/b"]:
            await registry.put(key, b"x", lease=lease.id)
        watch = registry.watch("/", 4)
        await harness.pass_time(11)
        assert await following(watch) == tuple(Change(ChangeKind.DELETE, key, 4) for key in ["/a", "/b", "/c"])
        assert (await registry.list("/")).revision == 4

    async def test_leases_that_end_together_end_one_by_one(self, harness: Harness, registry: Registry) -> None:
        late, early = await registry.grant(10), await registry.grant(9)
        await registry.put("/late", b"", lease=late.id)
        await registry.put("/early", b"", lease=early.id)
        watch = registry.watch("/", 3)
        await harness.pass_time(20)
        assert await following(watch) == (Change(ChangeKind.DELETE, "/early", 3),)
        assert await following(watch) == (Change(ChangeKind.DELETE, "/late", 4),)

    async def test_revoke_ends_it_now(self, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/a", b"", lease=lease.id)
        await registry.put("/b", b"", lease=lease.id)
        await registry.revoke(lease.id)
        await registry.revoke(lease.id)  # unknown by now, and fine
        assert await keys(registry) == []
        assert (await registry.list("/")).revision == 3
        assert await registry.keep_alive(lease.id) == 0.0

    async def test_a_dead_lease_takes_no_keys(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/mine", b"", lease=lease.id)
        harness.clock.advance(11)
        for write in (registry.put, registry.create):
            with pytest.raises(NotFound) as raised:
                await write("/a", b"", lease=lease.id)
            assert raised.value.code == "lease_not_found"
        assert await keys(registry) == []
        # The refused write did not undo the expiry it found due.
        assert (await registry.list("/")).revision == 2

    async def test_the_last_put_decides_on_which_lease_a_key_hangs(self, registry: Registry) -> None:
        old, new = await registry.grant(10), await registry.grant(10)
        for key in ["/moved", "/freed", "/stays"]:
            await registry.put(key, b"", lease=old.id)
        await registry.put("/moved", b"", lease=new.id)
        await registry.put("/freed", b"")
        await registry.revoke(old.id)
        assert await keys(registry) == ["/freed", "/moved"]
        await registry.revoke(new.id)
        assert await keys(registry) == ["/freed"]

    async def test_a_deleted_key_leaves_its_lease(self, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/a", b"", lease=lease.id)
        await registry.delete("/a")
        await registry.put("/a", b"")
        await registry.revoke(lease.id)
        assert await keys(registry) == ["/a"]

    async def test_the_wall_clock_means_nothing(self, harness: Harness, registry: Registry) -> None:
        lease = await registry.grant(10)
        await registry.put("/a", b"", lease=lease.id)
        for wall_us in (0, 4_000_000_000_000_000):
            harness.clock.set_now_us(wall_us)
            await harness.pass_time(4)
            assert await keys(registry) == ["/a"]
        await harness.pass_time(3)
        assert await keys(registry) == []

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e9])
    async def test_a_ttl_is_positive_and_bounded(self, registry: Registry, ttl_s: float) -> None:
        with pytest.raises(Invalid, match="invalid_ttl"):
            await registry.grant(ttl_s)


class TestWatch:
    async def test_from_a_revision_nothing_is_missed(self, registry: Registry) -> None:
        await registry.put("/a", b"1")
        await registry.put("/a", b"2")
        await registry.delete("/a")
        watch = registry.watch("/", 2)
        assert await following(watch) == (Change(ChangeKind.PUT, "/a", 2, b"2"),)
        assert await following(watch) == (Change(ChangeKind.DELETE, "/a", 3),)
        await registry.put("/a", b"3")
        assert await following(watch) == (Change(ChangeKind.PUT, "/a", 4, b"3"),)

    async def test_it_waits_for_what_is_to_come(self, registry: Registry) -> None:
        watch = registry.watch("/", 3)
        waiting = asyncio.ensure_future(following(watch))
        await registry.put("/a", b"1")
        await registry.put("/b", b"2")
        await asyncio.sleep(0.06)
        assert not waiting.done()
        await registry.put("/c", b"3")
        assert await waiting == (Change(ChangeKind.PUT, "/c", 3, b"3"),)

    async def test_only_its_prefix(self, registry: Registry) -> None:
        watch = registry.watch("/s/A/", 1)
        for key in ["/s/AB/1", "/s/A", "/s/A/1", "/s/B/1", "/s/A/2"]:
            await registry.put(key, b"")
        assert [change.key for change in await following(watch)] == ["/s/A/1"]
        assert [change.key for change in await following(watch)] == ["/s/A/2"]

    async def test_each_watcher_sees_everything(self, registry: Registry) -> None:
        watches = [registry.watch("/", 1) for _ in range(5)]
        waiting = [asyncio.ensure_future(following(watch)) for watch in watches]
        await registry.put("/a", b"1")
        assert {await each for each in waiting} == {(Change(ChangeKind.PUT, "/a", 1, b"1"),)}

    async def test_a_slow_watcher_finds_all_of_a_long_stretch(self, registry: Registry) -> None:
        watch = registry.watch("/x/", 1)
        lease = await registry.grant(600)
        for number in range(1, 1200):
            await registry.put(f"/x/{number % 700:04}", b"", lease=lease.id)
        await registry.revoke(lease.id)  # 700 deletes at one revision, across any limit of a read
        seen = [await following(watch) for _ in range(1200)]
        assert [group[0].revision for group in seen] == list(range(1, 1201))
        assert [change.key for change in seen[-1]] == [f"/x/{number:04}" for number in range(700)]

    async def test_an_abandoned_watch_harms_nobody(self, registry: Registry) -> None:
        waiting = asyncio.ensure_future(following(registry.watch("/", 1)))
        other = registry.watch("/", 1)
        await asyncio.sleep(0.03)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await registry.put("/a", b"1")
        assert len(await following(other)) == 1

    async def test_an_expiry_is_seen_without_anybody_calling(self, registry: Registry, harness: Harness) -> None:
        lease = await registry.grant(0.05)
        await registry.put("/a", b"", lease=lease.id)
        waiting = asyncio.ensure_future(following(registry.watch("/", 2)))
        await asyncio.sleep(0)
        harness.clock.advance(0.05)
        assert await waiting == (Change(ChangeKind.DELETE, "/a", 2),)

    async def test_revisions_start_at_one(self, registry: Registry) -> None:
        with pytest.raises(Invalid, match="invalid_revision"):
            await following(registry.watch("/", 0))


class TestCompaction:
    async def test_a_watch_from_a_forgotten_revision_says_so(self, registry: Registry) -> None:
        for _ in range(5):
            await registry.put("/a", b"")
        await registry.compact(3)
        with pytest.raises(Compacted) as raised:
            await following(registry.watch("/", 3))
        assert raised.value.compacted == 3
        assert raised.value.code == "compacted"
        assert (await following(registry.watch("/", 4)))[0].revision == 4

    async def test_a_watch_that_lagged_too_far_says_so(self, harness: Harness) -> None:
        registry = harness.registry  # etcd pushes what happens: there, only a watch whose stream broke can lag
        watch = registry.watch("/", 1)
        await registry.put("/a", b"1")
        await following(watch)
        await registry.put("/a", b"2")
        await registry.put("/a", b"3")
        await registry.compact(2)
        with pytest.raises(Compacted):
            await drain(watch)

    async def test_what_is_there_stays(self, registry: Registry) -> None:
        await registry.put("/a", b"1")
        await registry.compact(1)
        listing = await registry.list("/")
        assert [item.key for item in listing.items] == ["/a"]
        waiting = asyncio.ensure_future(following(registry.watch("/", listing.revision + 1)))
        await registry.put("/a", b"2")
        assert await waiting == (Change(ChangeKind.PUT, "/a", 2, b"2"),)

    async def test_again_is_fine_ahead_is_not(self, registry: Registry) -> None:
        await registry.put("/a", b"1")
        await registry.compact(1)
        await registry.compact(1)
        await registry.compact(0)
        with pytest.raises(Invalid) as raised:
            await registry.compact(2)
        assert raised.value.code == "future_revision"

    async def test_history_is_bounded_without_anybody_compacting(self, harness: Harness) -> None:
        registry = harness.open(history_revisions_max=10)
        for _ in range(11):
            await registry.put("/a", b"")
        with pytest.raises(Compacted) as raised:
            await following(registry.watch("/", 1))
        assert raised.value.compacted == 6
        assert (await following(registry.watch("/", 7)))[0].revision == 7


class TestClose:
    async def test_watches_end_and_calls_are_refused(self, registry: Registry) -> None:
        waiting = asyncio.ensure_future(anext(registry.watch("/", 1), None))
        await asyncio.sleep(0.03)
        await registry.close()
        await registry.close()
        async with asyncio.timeout(60):
            assert await waiting is None
        with pytest.raises(Unavailable, match="closed"):
            await registry.put("/a", b"")
        with pytest.raises(Unavailable, match="closed"):
            await registry.list("/")
