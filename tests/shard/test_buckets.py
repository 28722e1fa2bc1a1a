"""The map as a value, and the three strategies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shard.conftest import Open, add

from dougong.errors import Conflict, Invalid, NotFound
from dougong.shard import (
    BUCKETS,
    BucketMap,
    BucketState,
    ConsistentHashRouting,
    Layout,
    MappingRouting,
    ModuloRouting,
    Move,
    Place,
    ShardedStore,
    ShardedTable,
    embedded_layout,
    hash_bucket,
    load_layout,
    lookup,
)
from dougong.store import Store, open_store


def names(count: int) -> list[str]:
    return [f"db-{number}" for number in range(count)]


def test_a_map_changes_by_compare_and_set() -> None:
    before = BucketMap.of(ModuloRouting().spread(names(4)))
    place = before.places[17]
    fenced = before.changed(17, place, Place(place.shard, place.epoch, BucketState.FENCED))
    after = fenced.changed(17, fenced.places[17], Place("db-3", 2))
    assert (before.version, after.version, after.places[17]) == (1, 3, Place("db-3", 2))
    assert [n for n in range(BUCKETS) if after.places[n] != before.places[n]] == [17]
    assert (17, 2) in after.owners()["db-3"].items()
    with pytest.raises(Conflict, match="map_changed"):
        after.changed(17, place, Place("db-2", 2))
    for wrong in (Place("db-3", 1), Place("db-3", 3), Place(place.shard, 2)):
        with pytest.raises(Invalid, match="bad_epoch"):
            before.changed(17, place, wrong)
    with pytest.raises(Invalid, match="bad_bucket_map"):
        BucketMap.of(names(4))


@given(st.sampled_from([ModuloRouting(), ConsistentHashRouting()]), st.integers(1, BUCKETS), st.integers(1, BUCKETS))
def test_moves_lead_from_any_spread_to_any_other(
    routing: ModuloRouting | ConsistentHashRouting, few: int, many: int
) -> None:
    before = BucketMap.of(routing.spread(names(few)))
    spread = routing.spread(names(many))
    places = [place.shard for place in before.places]
    for bucket, source, target in before.moves(spread):
        assert places[bucket] == source
        places[bucket] = target
    assert tuple(places) == spread


@pytest.mark.parametrize(("databases", "modulo"), [(8, 0.5), (5, 0.78125)])
def test_shares_of_rows_that_move(databases: int, modulo: float) -> None:
    rows = dict.fromkeys(range(BUCKETS), 1000)
    shares = {}
    for routing in (ModuloRouting(), ConsistentHashRouting()):
        before = BucketMap.of(routing.spread(names(4)))
        shares[routing.name] = before.share_moved(routing.spread(names(databases)), rows)
    assert shares["modulo"] == modulo
    assert 1 - 4 / databases - 0.05 <= shares["consistent-hash"] <= 1 - 4 / databases + 0.06
    assert BucketMap.of(ModuloRouting().spread(names(4))).share_moved(names(1) * BUCKETS, {}) == 0.0


@given(st.integers(1, BUCKETS), st.floats(1.0, 2.0))
def test_no_database_is_loaded_beyond_its_bound(databases: int, factor: float) -> None:
    spread = ConsistentHashRouting(virtual_nodes=8, load_factor=factor).spread(names(databases))
    most = -(-BUCKETS * factor // databases)
    assert max(Counter(spread).values()) <= most + 1e-9


def test_without_the_bound_somebody_is_loaded_beyond_it() -> None:
    spread = ConsistentHashRouting(load_factor=100.0).spread(names(8))
    assert max(Counter(spread).values()) > 18


def test_frozen_for_ever() -> None:
    """Rows lie where these say. If this fails, every key of every user is lost."""
    assert [hash_bucket(key) for key in (0, 1, 7, "7", "ada@example.org", "")] == [111, 100, 71, 71, 42, 46]
    assert [ModuloRouting().bucket(key) for key in (0, 127, 128, 2**62 + 5)] == [0, 127, 0, 5]


def test_hashed_keys_spread_evenly() -> None:
    counts = Counter(hash_bucket(number) for number in range(128_000))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


@pytest.mark.parametrize("key", ["7", True, None, 1.5])
def test_modulo_takes_numbers_only(key: object) -> None:
    with pytest.raises(Invalid, match="bad_key"):
        ModuloRouting().bucket(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [[], ["a", "a"], names(129)])
def test_impossible_spreads_are_refused(shards: list[str]) -> None:
    for routing in (ModuloRouting(), ConsistentHashRouting()):
        with pytest.raises(Invalid, match="bad_shards"):
            routing.spread(shards)
    with pytest.raises(Invalid, match="bad_ring"):
        ConsistentHashRouting(load_factor=0.5)


@pytest.fixture
async def mapping(sharded: ShardedStore) -> MappingRouting:
    routing = MappingRouting(sharded.metadata, spare=64)
    await routing.start()
    return routing


async def test_a_mapped_key_stays_where_it_was_placed(sharded: ShardedStore, mapping: MappingRouting) -> None:
    assert mapping.bucket("ada") is None
    bucket = await mapping.find("ada")
    assert mapping.bucket("ada") == bucket
    await mapping.place("bob", 99)
    with pytest.raises(Conflict, match="bucket 99"):
        await mapping.place("bob", 98)
    with pytest.raises(Invalid, match="bad_bucket"):
        await mapping.place("eve", 128)
    other = MappingRouting(sharded.metadata)
    assert [await other.find("ada"), await other.find("bob")] == [bucket, 99]
    assert await other.counts() == {bucket: 1, 99: 1}


async def test_new_keys_fill_the_emptiest_buckets_and_spare_ones_move_for_nothing(mapping: MappingRouting) -> None:
    found = Counter([await mapping.find(number) for number in range(128)])
    assert found == dict.fromkeys(range(64), 2)
    rows = await mapping.counts()
    before = BucketMap.of(mapping.spread(names(4)))
    spread = mapping.spread(names(8), [place.shard for place in before.places])
    assert set(Counter(spread).values()) == {16}
    assert len(before.moves(spread)) == 64
    assert before.share_moved(spread, rows) == 0.0


async def test_what_is_remembered_is_bounded(sharded: ShardedStore) -> None:
    routing = MappingRouting(sharded.metadata, remembered_max=2)
    await routing.start()
    for number in range(3):
        await routing.find(number)
    assert [routing.bucket(number) is None for number in range(3)] == [True, False, False]


async def test_a_mapped_store_finds_its_keys_again(layout: Layout, routers: Open) -> None:
    mapped = Layout(layout.name, layout.metadata, layout.databases, "mapping", spare_buckets=120)
    first = await routers(mapped)
    await add(first, 1000)
    second = await routers(mapped)
    assert await second.store_of(1000).fetch_one("SELECT name FROM users WHERE id = 1000") == ("ada",)
    assert "places 1000 in bucket" in (await second.why(1000)).why
    assert await second.store_of(2000).fetch_one("SELECT name FROM users") is None
    assert await second.store_of(2000).fetch_all("SELECT name FROM users") == []
    table = ShardedTable("users", bucket="bucket")
    assert await lookup(second, table, [1000, 2000], ["name"]) == {1000: ("ada",)}
    with pytest.raises(NotFound, match="unplaced_key"):  # asking placed nothing
        await second.why(2000)


async def test_the_kept_map_changes_by_compare_and_set(sharded: ShardedStore) -> None:
    place = sharded.map.places[3]
    changed = await sharded.maps.change(3, place, Place("db-0", 2))
    assert changed == await sharded.maps.load()
    with pytest.raises(Conflict, match="map_changed"):
        await sharded.maps.change(3, place, Place("db-1", 2))
    assert await sharded.maps.routing() == "modulo"


def test_layouts_are_read_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    with pytest.raises(NotFound, match="no_layout"):
        load_layout(file)
    file.write_text('name = "u"\nmetadata = "sqlite:///m.db"\nurl = "sqlite:///u{number:03}.db"\ncount = 128\n')
    layout = load_layout(file)
    assert (len(layout.databases), layout.databases["db-7"]) == (128, "sqlite:///u007.db")
    file.write_text('name = "u"\nmetadata = "sqlite:///m.db"\n[databases]\na = "sqlite:///a.db"\n')
    assert load_layout(file).databases == {"a": "sqlite:///a.db"}
    assert len(embedded_layout(tmp_path / "{odd} %s", "u").databases) == 4
    for text in (
        "name = ",
        'name = "u"\n', 'name = "u"\nmetadata = "sqlite:///m.db"\n', 'name = "u"\nmetadata = "x"\nextra = 1\n',
        'name = "u"\nmetadata = "sqlite:///m.db"\nurl = "sqlite:///{other}.db"\ncount = 2\n',
        'name = "u"\nmetadata = "sqlite:///m.db"\nurl = "sqlite:///same.db"\ncount = 2\n',
        'name = "u"\nmetadata = "sqlite:///m.db"\nurl = "sqlite:///{number}.db"\ncount = 129\n',
        'name = "u"\nmetadata = "sqlite:///m.db"\n[databases]\na = "sqlite:///a.db"\nb = "mysql://u@h/b"\n',
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(Invalid, match="bad_layout"):
            load_layout(file)


def test_a_move_names_its_ends() -> None:
    before = BucketMap.of(["a"] * BUCKETS)
    assert before.moves(["b", *["a"] * 127]) == [Move(0, "a", "b")]


async def test_a_store_outside_the_room_satisfies_the_seam(sharded: ShardedStore, tmp_path: Path) -> None:
    store: Store = sharded.store_of(1)
    await store.check()
    await store.close()
    plain: Store = await open_store(f"sqlite:///{tmp_path}/x.db")
    await plain.close()
    with pytest.raises(Invalid, match="bad_bucket"):
        sharded.store_at(128)
