"""The claim about discovery: all see each change, the dead are taken out by who calls them, writers go on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dougong.evidence import NotShown
from dougong.registry import Registry, open_registry
from shop.proof.discovery import claim, crash, writers, zookeeper
from shop.proof.discovery.claim import table_kib, watched
from shop.proof.discovery.writers import COUNT, PATH, EtcdWriter, ZooKeeperWriter, gap_ms

pytestmark = pytest.mark.processes


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"local://{tmp_path}/registry.db"


@pytest.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    opened = await open_registry(url)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zookeeper.ZooKeeperCluster]:
    pytest.importorskip("kazoo")
    try:
        started = zookeeper.ZooKeeperCluster(tmp_path_factory.mktemp("zookeeper") / "ensemble")
    except NotShown as missing:
        pytest.skip(missing.message)
    yield started
    started.remove()


async def test_every_watcher_sees_every_change(registry: Registry, url: str) -> None:
    seen = await watched(EtcdWriter(registry), ("watch", url), watchers=2, seconds=1.0)
    assert seen.changes == seen.seen_least == 10
    assert 0 < seen.p50_ms <= seen.p99_ms <= seen.max_ms


async def test_changes_that_never_come_are_missed(registry: Registry, url: str) -> None:
    class Lazy(EtcdWriter):
        written = 0

        async def write(self, number: int) -> None:
            self.written += 1
            if self.written <= COUNT:
                await super().write(number)

    seen = await watched(Lazy(registry), ("watch", url), watchers=1, seconds=1.0)
    assert (seen.changes, seen.seen_least) == (10, 0)


async def test_the_baseline_sees_the_same_changes(ensemble: zookeeper.ZooKeeperCluster) -> None:
    async with claim.connected(ensemble.hosts) as client:
        writer = ZooKeeperWriter(client)
        arguments = ("watch-zookeeper", ensemble.hosts, PATH)
        seen = await watched(writer, arguments, watchers=2, seconds=1.0)
        assert seen.changes == seen.seen_least == 10
        leader = await asyncio.to_thread(ensemble.leader)
        assert 0 < await gap_ms(lambda: writer.write(0), leader.kill) < 60_000


async def test_the_dead_are_taken_out_by_who_calls_them(registry: Registry, url: str) -> None:
    dead = await crash.crash(registry, url)
    assert dead.out_s < crash.LONG_S
    assert dead.attempts >= 1
    assert dead.failed == 0
    assert dead.calls > dead.attempts


async def test_without_probes_the_dead_stay_until_their_lease_ends(
    registry: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash, "LONG_S", 1.5)
    dead = await crash.crash(registry, url, probed=False)
    assert dead.out_s > 1.4  # all the time that was looked, but for a timer that is early by a tick


async def test_a_gap_lasts_until_a_write_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def write() -> None:
        done.append("write")
        if 2 <= len(done) <= 4:
            raise ConnectionError

    def kill() -> None:
        done.append("kill")

    assert await gap_ms(write, kill) > 0
    assert done == ["write", "kill", "write", "write", "write"]
    monkeypatch.setattr(writers, "_GAP_S_MAX", 0.05)

    async def never() -> None:
        if "kill" in done:
            raise ConnectionError

    done.clear()
    assert await gap_ms(never, kill) == 50


def test_a_table_grows_with_what_is_in_it() -> None:
    assert 0 < table_kib(100) < table_kib(1000) <= 2048 < table_kib(4000)


@pytest.mark.parametrize(("missing", "message"), [("java", "Java is not installed"), ("jar", "zookeeper is not")])
def test_without_zookeeper_its_side_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None if missing == "java" else "/bin/java")
    monkeypatch.setattr(zookeeper, "JAR", tmp_path / "none.jar")
    with pytest.raises(NotShown, match=message):
        zookeeper.ZooKeeperCluster(tmp_path / "zookeeper")
