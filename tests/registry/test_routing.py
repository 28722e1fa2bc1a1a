"""The routing table's rules, and every rule in every order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.clock import ManualClock
from dougong.errors import Invalid
from dougong.registry import (
    Change,
    ChangeKind,
    Instance,
    InstanceState,
    KeyValue,
    Listing,
    MemoryRegistry,
    RoutingTable,
    instance_key,
    service_prefix,
)
from dougong.registry.routing import SUSPECT_S

SERVICE = "shop.v1.Orders"


def at(port: int, state: InstanceState = InstanceState.SERVING, version: str = "") -> Instance:
    return Instance(service=SERVICE, address=f"10.0.0.1:{port:05}", state=state, version=version)


def listing(revision: int, *instances: Instance) -> Listing:
    items = [KeyValue(instance_key(i), msgspec.json.encode(i), revision, revision) for i in instances]
    return Listing(items=tuple(sorted(items, key=lambda item: item.key)), revision=revision)


def put(revision: int, *instances: Instance) -> list[Change]:
    return [Change(ChangeKind.PUT, instance_key(i), revision, msgspec.json.encode(i)) for i in instances]


def gone(revision: int, *ports: int) -> list[Change]:
    return [Change(ChangeKind.DELETE, instance_key(at(port)), revision) for port in ports]


def table(*instances: Instance) -> RoutingTable:
    made = RoutingTable(SERVICE)
    made.apply_listing(listing(1, *instances), now=0.0)
    return made


def ports(instances: Sequence[Instance]) -> list[int]:
    return [int(instance.address.rpartition(":")[2]) for instance in instances]


class TestWhoServes:
    def test_in_the_order_of_addresses_whatever_came_first(self) -> None:
        made = table(at(3), at(1))
        made.apply_changes(put(2, at(2)), now=0.0)
        assert ports(made.serving) == [1, 2, 3]

    def test_only_the_serving(self) -> None:
        made = table(at(1), at(2, InstanceState.STARTING), at(3, InstanceState.TERMINATING))
        assert ports(made.serving) == [1]
        assert ports(made.instances) == [1, 2, 3]
        made.apply_changes(put(2, at(2)), now=0.0)
        assert ports(made.serving) == [1, 2]

    def test_the_version_rises_only_with_news(self) -> None:
        made = table(at(1))
        serving, version = made.serving, made.version
        made.apply_changes(put(2, at(1), at(2, InstanceState.STARTING)), now=0.0)
        made.apply_listing(listing(3, at(1)), now=0.0)
        assert made.serving is serving
        assert made.version == version
        made.apply_changes(put(4, at(1, version="2")), now=0.0)
        assert made.version == version + 1

    def test_known_revisions_are_skipped(self) -> None:
        made = table(at(1), at(2), at(3))
        made.apply_changes(put(5, at(4)), now=0.0)
        made.apply_changes(gone(4, 4), now=0.0)
        made.apply_changes(gone(5, 4), now=0.0)
        assert ports(made.serving) == [1, 2, 3, 4]
        assert made.revision == 5

    def test_a_listing_counts_even_at_a_lower_revision(self) -> None:
        made = table(at(1))
        made.apply_changes(put(90, at(2)), now=0.0)
        made.apply_listing(listing(3, at(1), at(7)), now=0.0)
        assert ports(made.serving) == [1, 7]
        made.apply_changes(put(4, at(8)), now=0.0)
        assert ports(made.serving) == [1, 7, 8]

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"{",
            b"[]",
            b'{"service":"shop.v1.Orders"}',
            b'{"service":"shop.v1.Orders","address":""}',
            b'{"service":"shop.v1.Users","address":"10.0.0.1:00009"}',
            b'{"service":"shop.v1.Orders","address":"10.0.0.1:00008"}',
            b'{"service":"shop.v1.Orders","address":"10.0.0.1:00009","state":"asleep"}',
            b"\xff\xfe",
        ],
    )
    def test_a_strangers_entry_is_skipped(self, value: bytes) -> None:
        made = table(at(1))
        key = instance_key(at(9))
        made.apply_changes([Change(ChangeKind.PUT, key, 2, value)], now=0.0)
        made.apply_listing(Listing((*listing(3, at(1)).items, KeyValue(key, value, 3, 3)), 3), now=0.0)
        assert ports(made.serving) == [1]
        assert made.unreadable == 2

    def test_an_entry_from_a_newer_release_is_read(self) -> None:
        value = b'{"service":"shop.v1.Orders","address":"10.0.0.1:00009","colour":"red"}'
        made = table()
        made.apply_changes([Change(ChangeKind.PUT, instance_key(at(9)), 2, value)], now=0.0)
        assert ports(made.serving) == [9]

    def test_names_that_would_break_out_of_the_prefix(self) -> None:
        for service in ("", "a/b"):
            with pytest.raises(Invalid, match="invalid_service_name"):
                service_prefix(service)
        with pytest.raises(Invalid, match="invalid_instance_address"):
            instance_key(Instance(service=SERVICE, address="unix:/tmp/x"))


class TestNeverEmptiedOnTheRegistrysWord:
    def test_one_of_several_is_dropped(self) -> None:
        made = table(at(1), at(2))
        made.apply_changes(gone(2, 1), now=0.0)
        assert ports(made.serving) == [2]
        assert not made.stale

    def test_the_last_one_stays_until_another_serves(self) -> None:
        made = table(at(1))
        made.apply_changes(gone(2, 1), now=0.0)
        made.settle(now=1e6)
        assert ports(made.serving) == [1]
        assert made.stale
        made.apply_changes(put(3, at(2, InstanceState.STARTING)), now=1.0)
        assert ports(made.serving) == [1]
        made.apply_changes(put(4, at(2)), now=1.0)
        assert ports(made.serving) == [2]
        assert not made.stale

    def test_whoever_said_goodbye_is_dropped_even_the_last(self) -> None:
        made = table(at(1))
        made.apply_changes(put(2, at(1, InstanceState.TERMINATING)), now=0.0)
        assert made.serving == ()
        made.apply_changes(gone(3, 1), now=0.0)
        assert made.instances == ()
        assert not made.stale

    def test_many_at_once_stay_suspected(self) -> None:
        made = table(*map(at, range(10)))
        made.apply_changes(gone(2, 1, 2), now=100.0)
        assert ports(made.serving) == list(range(10))
        assert made.stale
        assert len(made.suspects) == 2
        assert made.settle(now=100.0) == 100.0 + SUSPECT_S

    def test_an_eighth_at_once_is_no_mass(self) -> None:
        made = table(*map(at, range(16)))
        made.apply_changes(gone(2, 1, 2), now=0.0)
        assert len(made.serving) == 14

    def test_a_sign_of_life_clears_a_suspect(self) -> None:
        made = table(*map(at, range(10)))
        made.apply_changes(gone(2, 1, 2), now=0.0)
        made.apply_changes(put(3, at(1)), now=1.0)
        assert len(made.suspects) == 1
        made.settle(now=SUSPECT_S)
        assert ports(made.serving) == [0, 1, *range(3, 10)]
        assert not made.stale

    def test_a_failed_probe_drops_a_suspect_and_nobody_else(self) -> None:
        made = table(*map(at, range(4)))
        made.apply_changes(gone(2, 1, 2), now=0.0)
        assert made.probe_failed(at(1).address)
        assert not made.probe_failed(at(3).address)
        assert not made.probe_failed("10.9.9.9:1")
        assert ports(made.serving) == [0, 2, 3]

    def test_suspects_outlive_their_time_when_nobody_else_is_left(self) -> None:
        made = table(*map(at, range(3)))
        made.apply_changes(gone(2, 0, 1, 2), now=0.0)
        made.settle(now=1e6)
        assert ports(made.serving) == [0, 1, 2]
        assert made.stale
        made.apply_changes(put(3, at(7)), now=1e6)
        assert ports(made.serving) == [7]

    def test_an_empty_listing_is_not_believed_either(self) -> None:
        made = table(*map(at, range(3)))
        made.apply_listing(listing(1), now=5.0)
        made.apply_listing(listing(1), now=50.0)
        assert ports(made.serving) == [0, 1, 2]
        assert made.stale

    def test_without_the_rule_it_would_be_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ablation: drop what the registry dropped, and a registry that lost its data takes the system with it."""

        def believe(self: RoutingTable, gone: Sequence[str], now: float) -> None:
            for address in gone:
                self._drop(address)

        monkeypatch.setattr(RoutingTable, "_vanish", believe)
        made = table(*map(at, range(3)))
        made.apply_listing(listing(1), now=0.0)
        assert made.serving == ()


class TestWorth:
    def test_stale_before_the_first_word_and_while_unreachable(self) -> None:
        made = RoutingTable(SERVICE)
        story = [(made.stale, made.age_s(now=1.0))]
        made.apply_listing(listing(4), now=10.0)
        story.append((made.stale, made.age_s(now=12.5)))
        made.unreachable()
        story.append((made.stale, made.age_s(now=15.0)))
        made.apply_changes(put(5, at(1)), now=20.0)
        story.append((made.stale, made.age_s(now=20.0)))
        assert story == [(True, None), (False, 2.5), (True, 5.0), (False, 0.0)]
        assert made.revision == 5


ops = st.lists(
    st.tuples(
        st.sampled_from(["serve", "serve", "start", "terminate", "delete", "delete", "together", "relist"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=40,
)


@given(ops)
def test_step_by_step_is_the_same_as_rebuilt(story: list[tuple[str, int, int]]) -> None:
    """After any changes, applied one revision at a time with listings thrown in, the table equals a rebuilt one.

    Suspects apart: those are kept on purpose, and never where somebody serves and their time is up.
    """

    async def run() -> None:
        registry = MemoryRegistry(ManualClock())
        incremental = RoutingTable(SERVICE)
        incremental.apply_listing(await registry.list(incremental.prefix), now=0.0)
        for now, (op, one, other) in enumerate(story, start=1):
            before = (await registry.list("/")).revision
            match op:
                case "serve" | "start" | "terminate":
                    state = {"serve": "serving", "start": "starting", "terminate": "terminating"}[op]
                    instance = at(one, InstanceState(state), version=str(other))
                    await registry.put(instance_key(instance), msgspec.json.encode(instance))
                case "delete":
                    await registry.delete(instance_key(at(one)))
                case "together":
                    lease = await registry.grant(10)
                    for port in {one, other}:
                        await registry.put(instance_key(at(port)), msgspec.json.encode(at(port)), lease=lease.id)
                    await registry.revoke(lease.id)
                case _:
                    incremental.apply_listing(await registry.list(incremental.prefix), now=float(now))
            after = await registry.list(incremental.prefix)
            if op != "relist" and after.revision > before:
                async for changes in registry.watch(incremental.prefix, incremental.revision + 1):
                    incremental.apply_changes(changes, now=float(now))
                    if incremental.revision == after.revision:
                        break
            incremental.settle(now=float(now))
            rebuilt = RoutingTable(SERVICE)
            rebuilt.apply_listing(after, now=float(now))
            suspects = set(incremental.suspects)
            assert tuple(i for i in incremental.instances if i.address not in suspects) == rebuilt.instances
            assert all(instance in incremental.serving for instance in rebuilt.serving)
            if not suspects:
                assert incremental.serving == rebuilt.serving
            if rebuilt.serving:
                incremental_later = incremental.settle(now + SUSPECT_S)
                assert incremental_later is None
                assert incremental.serving == rebuilt.serving

    asyncio.run(run())
