"""Of two that claim one name, the older epoch is over; and the rest of who is not called, with reasons."""

from __future__ import annotations

import msgspec
import pytest

from dougong.clock import ManualClock
from dougong.registry import (
    Change,
    ChangeKind,
    Instance,
    InstanceState,
    KeyValue,
    Listing,
    Resolver,
    RoutingTable,
    Source,
    instance_key,
)
from dougong.registry import _fencing as fencing
from dougong.registry import routing as routing_module
from dougong.registry._fencing import Fences

SERVICE = "shop.v1.Orders"


def at(port: int, **fields: object) -> Instance:
    return msgspec.structs.replace(Instance(SERVICE, f"10.0.0.1:{port}"), **fields)


def put(table: RoutingTable, *instances: Instance) -> None:
    for i in instances:
        revision = table.revision + 1
        table.apply_changes([Change(ChangeKind.PUT, instance_key(i), revision, msgspec.json.encode(i))], now=0.0)


def delete(table: RoutingTable, *ports: int) -> None:
    for port in ports:
        revision = table.revision + 1
        table.apply_changes([Change(ChangeKind.DELETE, instance_key(at(port)), revision)], now=0.0)


def served(table: RoutingTable) -> list[str]:
    return [i.address.rpartition(":")[2] for i in table.serving]


@pytest.fixture
def table() -> RoutingTable:
    made = RoutingTable(SERVICE)
    made.apply_listing(Listing((), 1), now=0.0)
    return made


class TestEpochs:
    def test_a_successor_elsewhere_ends_its_predecessor(self, table: RoutingTable) -> None:
        put(table, at(1, id="orders-0", epoch=1), at(2, id="orders-0", epoch=2), at(3, id="orders-1", epoch=1))
        assert served(table) == ["2", "3"]

    def test_whoever_comes_late_stays_outside_even_when_the_successor_left(self, table: RoutingTable) -> None:
        put(table, at(2, id="orders-0", epoch=2))
        put(table, at(2, id="orders-0", epoch=2, state=InstanceState.TERMINATING))
        delete(table, 2)
        put(table, at(1, id="orders-0", epoch=1))
        assert served(table) == []
        put(table, at(3, id="orders-0", epoch=3))
        assert served(table) == ["3"]

    def test_at_the_same_address_the_late_word_of_the_older_does_not_disturb(self, table: RoutingTable) -> None:
        put(table, at(1, id="b", epoch=5), at(1, id="a", epoch=4, state=InstanceState.TERMINATING))
        assert [(i.id, i.epoch) for i in table.serving] == [("b", 5)]
        put(table, at(1, id="c", epoch=6))
        assert [(i.id, i.epoch) for i in table.serving] == [("c", 6)]

    def test_no_epoch_says_nothing(self, table: RoutingTable) -> None:
        put(table, at(1, id="orders-0"), at(2, id="orders-0", epoch=9), at(3, id="orders-0", epoch=9))
        assert served(table) == ["1", "2", "3"]

    def test_without_fences_the_ghost_would_be_called(
        self, table: RoutingTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ablation."""
        monkeypatch.setattr(Fences, "fenced", lambda self, instance: False)
        put(table, at(2, id="orders-0", epoch=2), at(1, id="orders-0", epoch=1))
        assert served(table) == ["1", "2"]

    def test_what_is_remembered_is_bounded_and_bearers_are_never_forgotten(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fencing, "IDS_MAX", 3)
        fences = Fences()
        for number in range(5):
            bearer = at(number, id=f"x-{number}", epoch=7)
            fences.seen(bearer)
            if number != 0:
                fences.removed(bearer)
        assert [fences.epoch(f"x-{number}") for number in range(5)] == [7, 0, 0, 7, 7]


class TestNamed:
    def test_what_is_ignored_is_named_once_and_forgotten_when_it_goes(self, table: RoutingTable) -> None:
        key = f"/services/{SERVICE}/10.0.0.1:9"
        bad = Change(ChangeKind.PUT, key, 2, b"{")
        table.apply_changes([bad], now=0.0)
        assert [entry.key for entry in table.take_news().invalid] == [key]
        table.apply_listing(Listing((KeyValue(key, b"{", 2, 2),), 3), now=0.0)
        assert not table.take_news()
        assert "is no instance" in table.invalid[key]
        assert table.unreadable == 2
        table.apply_changes([Change(ChangeKind.DELETE, key, 4)], now=0.0)
        assert table.invalid == {}

    def test_a_listing_without_it_forgets_it_too(self, table: RoutingTable) -> None:
        key = f"/services/{SERVICE}/10.0.0.1:9"
        table.apply_changes([Change(ChangeKind.PUT, key, 2, b"{")], now=0.0)
        table.apply_listing(Listing((), 3), now=0.0)
        assert table.invalid == {}

    @pytest.mark.parametrize(("field", "value"), [("weight", -1), ("epoch", -1)])
    def test_numbers_below_zero_are_refused(self, table: RoutingTable, field: str, value: int) -> None:
        put(table, at(1, **{field: value}))
        assert table.serving == ()
        (reason,) = table.invalid.values()
        assert f"{field} -1 is below 0" in reason

    def test_an_address_is_no_path(self, table: RoutingTable) -> None:
        key = f"/services/{SERVICE}/unix:/run/x"
        table.apply_changes(
            [Change(ChangeKind.PUT, key, 2, msgspec.json.encode(Instance(SERVICE, "unix:/run/x")))], 0.0
        )
        assert table.serving == ()
        assert list(table.invalid) == [key]

    def test_names_are_bounded(self, table: RoutingTable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(routing_module, "INVALID_MAX", 3)
        for port in range(10):
            key = f"/services/{SERVICE}/10.0.0.1:{port}"
            table.apply_changes([Change(ChangeKind.PUT, key, table.revision + 1, b"")], now=0.0)
        assert len(table.invalid) == 3
        assert table.unreadable == 10


class TestWhy:
    def test_everybody_has_a_reason(self, table: RoutingTable) -> None:
        resolver = Resolver(table, ManualClock(monotonic=3.0))
        put(
            table,
            at(1, version="2", zone="a"),
            at(2, state=InstanceState.STARTING),
            at(3, state=InstanceState.TERMINATING),
            at(4, weight=0),
            at(5, id="orders-5", epoch=2),
            at(6, id="orders-5", epoch=1),
            at(7),
        )
        table.apply_changes([Change(ChangeKind.PUT, f"/services/{SERVICE}/x:1", 100, b"")], now=0.0)
        table.set_dead(at(7).address, True)
        found = resolver.explain(at(6).address)
        assert {s.address.rpartition(":")[2]: s.reason for s in found.excluded} == {
            "2": "is starting",
            "3": "is leaving",
            "4": "its weight is 0",
            "6": "its epoch 1 is over: orders-5 is at 2",
            "7": "answers no probe",
        }
        assert [(s.address[-1], s.reason, s.version, s.zone) for s in found.called] == [
            ("1", "serves", "2", "a"),
            ("5", "serves", "", ""),
        ]
        assert found.chosen is not None
        assert not found.chosen.called
        assert (found.revision, found.age_s, found.source, found.stale) == (100, 3.0, Source.REGISTRY, False)
        assert [entry.key for entry in found.invalid] == [f"/services/{SERVICE}/x:1"]
        assert resolver.why().chosen is None

    def test_a_suspect_is_called_and_says_so(self, table: RoutingTable) -> None:
        put(table, *map(at, range(1, 4)))
        revision = table.revision + 1
        table.apply_changes([Change(ChangeKind.DELETE, instance_key(at(p)), revision) for p in (1, 2)], now=0.0)
        first = Resolver(table, ManualClock()).why().called[0]
        assert "lost it without a goodbye" in first.reason


class TestSubsets:
    def test_by_version_zone_app_and_metadata(self, table: RoutingTable) -> None:
        put(
            table,
            at(1, version="1", zone="a", metadata={"tier": "gold"}),
            at(2, version="2", zone="a"),
            at(3, version="2", zone="b", app="orders"),
        )
        resolver = Resolver(table, ManualClock())
        chosen = {
            str(labels): [i.address[-1] for i in resolver.subset(labels)]
            for labels in (
                {"version": "2"},
                {"version": "2", "zone": "a"},
                {"tier": "gold"},
                {"app": "orders"},
                {"tier": "tin"},
                {},
            )
        }
        assert list(chosen.values()) == [["2", "3"], ["2"], ["1"], ["3"], [], ["1", "2", "3"]]

    def test_the_same_tuple_until_something_changes(self, table: RoutingTable) -> None:
        put(table, at(1, zone="a"), at(2, zone="b"))
        resolver = Resolver(table, ManualClock())
        first = resolver.subset({"zone": "a"})
        assert resolver.subset({"zone": "a"}) is first
        table.set_dead(at(1).address, True)
        assert resolver.subset({"zone": "a"}) == ()


class TestSize:
    def test_a_change_moves_what_it_changes_and_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a thousand, one is judged: a rebuild of everything per event would judge a thousand."""
        made = RoutingTable(SERVICE)
        items = tuple(KeyValue(instance_key(at(p)), msgspec.json.encode(at(p)), 1, 1) for p in range(1000))
        made.apply_listing(Listing(items, 1), now=0.0)
        judged: list[str] = []
        judge = RoutingTable._judge

        def counted(self: RoutingTable, address: str, entry: routing_module.Entry) -> None:
            judged.append(address)
            judge(self, address, entry)

        monkeypatch.setattr(RoutingTable, "_judge", counted)
        put(made, at(500, version="2"))
        delete(made, 501)
        assert judged == [at(500).address]
        assert len(made.serving) == 999
