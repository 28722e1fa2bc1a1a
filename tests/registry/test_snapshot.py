"""A process starts from the last good table while the registry is down; what is not one is named and passed over."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.registry.faulty import FaultyRegistry
from tests.registry.virtual import KeptSnapshots, Town, run

from dougong.clock import Clock, ManualClock
from dougong.errors import Unavailable
from dougong.registry import (
    Discovery,
    FileSnapshots,
    Instance,
    InstanceState,
    LocalRegistry,
    MemoryRegistry,
    Snapshot,
    Source,
    instance_key,
)
from dougong.registry import snapshot as snapshot_module
from dougong.registry.snapshot import decode_snapshot, encode_snapshot
from dougong.telemetry import gauge

SERVICE = "shop.v1.Orders"


def at(port: int, state: InstanceState = InstanceState.SERVING) -> Instance:
    return Instance(SERVICE, f"10.0.0.1:{port}", state=state, metadata={"tier": "gold"})


GOOD = Snapshot(SERVICE, 7, 1_000_000, (at(1), at(2)))


class TestFiles:
    async def test_what_was_saved_is_loaded(self, tmp_path: Path) -> None:
        kept = FileSnapshots(tmp_path / "deep" / "routes")
        assert await kept.load(SERVICE) is None
        await kept.save(GOOD)
        await kept.save(msgspec.structs.replace(GOOD, revision=8))
        loaded = await kept.load(SERVICE)
        assert loaded is not None
        assert (loaded.revision, loaded.instances) == (8, GOOD.instances)
        assert [path.name for path in (tmp_path / "deep" / "routes").iterdir()] == ["shop.v1.Orders.routes"]

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda data: b"", "no snapshot of this version"),
            (lambda data: b"{}", "no snapshot of this version"),
            (lambda data: data.replace(b"routes 1", b"routes 2"), "no snapshot of this version"),
            (lambda data: data[:-1], "checksum"),
            (lambda data: data + b" ", "checksum"),
            (lambda data: data.replace(b"10.0.0.1:2", b"10.0.0.1:3"), "checksum"),
            (lambda data: encode_snapshot(msgspec.structs.replace(GOOD, service="other.v1.X")), "it is of"),
            (lambda data: b"x" * (snapshot_module.SNAPSHOT_BYTES_MAX + 1), "more than"),
        ],
    )
    async def test_damage_is_named_with_its_file(
        self, tmp_path: Path, damage: object, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(snapshot_module, "SNAPSHOT_BYTES_MAX", 10_000)
        kept = FileSnapshots(tmp_path)
        await kept.save(GOOD)
        path = kept.path(SERVICE)
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
        with pytest.raises(Unavailable, match=said) as raised:
            await kept.load(SERVICE)
        assert raised.value.code == "bad_snapshot"
        assert str(path) in raised.value.message

    @given(st.binary(max_size=300))
    def test_no_bytes_are_taken_for_one(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="no snapshot"):
            decode_snapshot(data, SERVICE)

    @given(st.integers(0, 1_000), st.integers(1, 255))
    def test_no_changed_byte_goes_unnoticed(self, place: int, change: int) -> None:
        data = bytearray(encode_snapshot(GOOD))
        data[place % len(data)] ^= change
        with pytest.raises(ValueError, match=r"checksum|no snapshot"):
            decode_snapshot(bytes(data), SERVICE)

    async def test_a_write_that_fails_leaves_the_one_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = FileSnapshots(tmp_path)
        await kept.save(GOOD)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left") as raised:
            await kept.save(msgspec.structs.replace(GOOD, revision=9))
        assert raised.value.code == "snapshot_not_saved"
        monkeypatch.undo()
        assert await kept.load(SERVICE) == GOOD
        assert len(list(tmp_path.iterdir())) == 1

    async def test_too_much_is_not_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshot_module, "SNAPSHOT_BYTES_MAX", 100)
        with pytest.raises(Unavailable, match="at most 100"):
            await FileSnapshots(tmp_path).save(GOOD)
        assert list(tmp_path.iterdir()) == []

    def test_any_service_name_is_one_file_in_the_directory(self, tmp_path: Path) -> None:
        kept = FileSnapshots(tmp_path)
        names = ["a.v1.B", "../../etc/passwd", "a b", "ö" * 300, "x" * 300]
        paths = [kept.path(name) for name in names]
        assert len(set(paths)) == len(names)
        assert all(path.parent == tmp_path and len(path.name) < 250 for path in paths)


async def _put(registry: FaultyRegistry, *instances: Instance) -> None:
    for instance in instances:
        await registry.inner.put(instance_key(instance), msgspec.json.encode(instance))


class Lives:
    """A client that lives several lives, before a registry that comes and goes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.registry = FaultyRegistry(MemoryRegistry(clock))
        self.kept = KeptSnapshots()
        self.town = Town("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3")

    def discovery(self, *, kept: bool = True) -> Discovery:
        snapshots = self.kept if kept else None
        return Discovery(self.registry, clock=self.clock, random=Random(3), probe=self.town, snapshots=snapshots)

    async def first(self) -> None:
        """A life in which all is well."""
        await _put(self.registry, at(1), at(2), at(3, InstanceState.STARTING))
        discovery = self.discovery()
        await discovery.resolve(SERVICE)
        await asyncio.sleep(2.0)
        await discovery.close()


def test_it_starts_while_the_registry_is_down() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        await lives.first()
        lives.registry.down = True
        await asyncio.sleep(100.0)
        discovery = lives.discovery()
        resolver = await discovery.resolve(SERVICE)
        assert await resolver.wait_ready(1.0) == (at(1), at(2))
        assert (resolver.source, resolver.stale, resolver.revision) == (Source.SNAPSHOT, True, 3)
        assert resolver.age_s is not None
        assert 100.0 <= resolver.age_s <= 103.0
        resolver.measure()
        assert gauge("dougong_registry_snapshot_age_seconds", "", ("service",)).value(SERVICE) >= 100.0
        lives.registry.down = False
        await asyncio.sleep(6.0)
        assert (resolver.source, resolver.stale) == (Source.REGISTRY, False)
        assert resolver.age_s < 10.0
        await discovery.close()

    run(tell)


def test_without_a_snapshot_nobody_is_found() -> None:
    """Ablation."""

    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        await lives.first()
        lives.registry.down = True
        discovery = lives.discovery(kept=False)
        resolver = await discovery.resolve(SERVICE)
        with pytest.raises(Unavailable, match="no_instances"):
            await resolver.wait_ready(1.0)
        await discovery.close()

    run(tell)


def test_a_registry_that_hangs_does_not_hold_up_the_start_for_long() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        await lives.first()
        lives.registry.frozen = True
        began = clock.monotonic()
        discovery = lives.discovery()
        resolver = await discovery.resolve(SERVICE)
        assert clock.monotonic() - began <= 1.1
        assert len(resolver.instances()) == 2
        await discovery.close()

    run(tell)


def test_who_died_meanwhile_is_found_out_before_anybody_calls() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        await lives.first()
        lives.registry.down = True
        lives.town.living = {"10.0.0.1:2"}
        discovery = lives.discovery()
        resolver = await discovery.resolve(SERVICE)
        await asyncio.sleep(1.0)
        assert resolver.instances() == (at(2),)
        assert [s.reason for s in resolver.why().excluded] == ["answers no probe", "is starting"]
        await discovery.close()

    run(tell)


def test_a_registry_that_lost_everything_is_not_believed_over_the_snapshot() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        await lives.first()
        lives.registry.down = True
        discovery = lives.discovery()
        resolver = await discovery.resolve(SERVICE)
        for port in (1, 2, 3):
            await lives.registry.inner.delete(instance_key(at(port)))
        lives.registry.down = False
        await asyncio.sleep(30.0)
        assert resolver.instances() == (at(1), at(2))  # they answer
        assert resolver.stale
        lives.town.living.clear()
        await asyncio.sleep(10.0)
        assert resolver.instances() == ()  # lost by the registry, and silent: that is proof
        await discovery.close()

    run(tell)


def test_a_burst_is_one_write_and_a_stale_table_none() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        discovery = lives.discovery()
        await discovery.resolve(SERVICE)
        for _ in range(50):
            await _put(lives.registry, at(1), at(1, InstanceState.STARTING))
            await asyncio.sleep(0.001)
        await _put(lives.registry, at(1), at(2), at(3))
        await asyncio.sleep(5.0)
        assert lives.kept.saves <= 2
        saved = lives.kept.kept[SERVICE]
        assert saved.instances == (at(1), at(2), at(3))
        lease = await lives.registry.inner.grant(100.0)
        for port in (1, 2):
            await lives.registry.inner.put(instance_key(at(port)), msgspec.json.encode(at(port)), lease=lease.id)
        await asyncio.sleep(5.0)
        await lives.registry.inner.revoke(lease.id)  # a mass: not believed, and not written down
        await asyncio.sleep(5.0)
        assert lives.kept.kept[SERVICE].instances == (at(1), at(2), at(3))
        await discovery.close()

    run(tell)


def test_a_broken_snapshot_store_harms_nobody() -> None:
    async def tell(clock: Clock) -> None:
        lives = Lives(clock)
        lives.kept.broken = True
        await lives.first()
        lives.registry.down = True
        discovery = lives.discovery()
        resolver = await discovery.resolve(SERVICE)
        assert (resolver.instances(), resolver.source) == ((), Source.NOTHING)
        lives.registry.down = False
        await asyncio.sleep(6.0)
        assert resolver.instances() == (at(1), at(2))
        await discovery.close()

    run(tell)


async def test_on_the_way_out_what_waits_is_saved(tmp_path: Path) -> None:
    registry = FaultyRegistry(MemoryRegistry())
    await _put(registry, at(1))
    discovery = Discovery(registry, snapshots=FileSnapshots(tmp_path))
    await discovery.resolve(SERVICE)
    await discovery.close()  # a process that lived for less than the quiet second
    loaded = await FileSnapshots(tmp_path).load(SERVICE)
    assert loaded is not None
    assert loaded.instances == (at(1),)
    await registry.close()


@pytest.mark.parametrize("fault", ["gone", "corrupt"])
async def test_a_registry_file_that_is_gone_or_corrupt(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "registry.db"
    registry = LocalRegistry(path)
    await registry.put(instance_key(at(1)), msgspec.json.encode(at(1)))
    before = Discovery(registry, snapshots=FileSnapshots(tmp_path / "routes"))
    assert len((await before.resolve(SERVICE)).instances()) == 1
    await before.close()
    await registry.close()
    for file in tmp_path.glob("registry.db*"):
        file.unlink()
    if fault == "corrupt":
        path.write_bytes(b"this was a database once" * 500)
    else:
        path.mkdir()  # as unusable as a file on a disk that is gone
    broken = LocalRegistry(path, ManualClock())
    after = Discovery(broken, snapshots=FileSnapshots(tmp_path / "routes"))
    resolver = await after.resolve(SERVICE)
    assert resolver.instances() == (at(1),)
    assert resolver.source is Source.SNAPSHOT
    await after.close()
    await broken.close()
