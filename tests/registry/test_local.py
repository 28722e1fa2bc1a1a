"""What is particular about the registry on disk: its file, and the processes and boots around it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from dougong.clock import ManualClock
from dougong.errors import Invalid, Overloaded, Unavailable
from dougong.registry import Compacted, LocalRegistry, MemoryRegistry, open_registry
from dougong.registry import local as local_module
from dougong.registry import sqlite as sqlite_module
from dougong.registry.keys import prefix_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "registry.db"


async def test_two_registries_on_one_file_are_one(path: Path) -> None:
    one, other = LocalRegistry(path), LocalRegistry(path)
    waiting = asyncio.ensure_future(anext(other.watch("/", 1)))
    await asyncio.sleep(0.03)
    lease = await one.grant(30)
    await one.put("/a", b"x", lease=lease.id)
    async with asyncio.timeout(60):
        assert [change.key for change in await waiting] == ["/a"]
    assert await other.keep_alive(lease.id) == 30.0
    await one.close()
    assert [item.key for item in (await other.list("/")).items] == ["/a"]
    await other.close()


async def test_everything_is_there_after_reopening(path: Path) -> None:
    clock = ManualClock(monotonic=50.0)
    registry = LocalRegistry(path, clock, boot="b1")
    lease = await registry.grant(10)
    await registry.put("/a", b"x", lease=lease.id)
    await registry.close()
    registry = LocalRegistry(path, clock, boot="b1")
    listing = await registry.list("/")
    assert (listing.items[0].lease, listing.revision) == (lease.id, 1)
    assert [c.revision for c in await anext(registry.watch("/", 1))] == [1]
    clock.advance(11)
    assert (await registry.list("/")).items == ()
    await registry.close()


@pytest.mark.parametrize("monotonic", [0.5, 50.0, 1e7])
async def test_leases_of_an_earlier_boot_are_over(path: Path, monotonic: float) -> None:
    before = LocalRegistry(path, ManualClock(monotonic=50.0), boot="b1")
    lease = await before.grant(1_000)
    await before.put("/a", b"x", lease=lease.id)
    await before.put("/kept", b"x")
    await before.close()
    after = LocalRegistry(path, ManualClock(monotonic=monotonic), boot="b2")
    assert [item.key for item in (await after.list("/")).items] == ["/kept"]
    assert await after.keep_alive(lease.id) == 0.0
    await after.close()


async def test_where_boots_have_no_name_a_smaller_clock_tells(path: Path) -> None:
    before = LocalRegistry(path, ManualClock(monotonic=1e6), boot="")
    lease = await before.grant(10)
    await before.put("/a", b"x", lease=lease.id)
    await before.close()
    after = LocalRegistry(path, ManualClock(monotonic=3.0), boot="")
    assert (await after.list("/")).items == ()
    await after.close()


async def test_a_removed_file_is_noticed_and_watches_say_compacted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "PATH_CHECK_POLLS", 1)
    registry = LocalRegistry(path)
    for _ in range(3):
        await registry.put("/a", b"x")
    lease = await registry.grant(10)
    waiting = asyncio.ensure_future(anext(registry.watch("/", 4)))
    await asyncio.sleep(0.03)
    for file in path.parent.iterdir():
        file.unlink()
    async with asyncio.timeout(60):
        with pytest.raises(Compacted):
            await waiting
    assert await registry.keep_alive(lease.id) == 0.0
    assert await registry.put("/b", b"x") == 1
    waiting = asyncio.ensure_future(anext(registry.watch("/", 2)))
    other = LocalRegistry(path)
    assert await other.put("/c", b"x") == 2
    async with asyncio.timeout(60):
        assert [change.key for change in await waiting] == ["/c"]
    await other.close()
    await registry.close()


async def test_another_processs_long_transaction_never_holds_up_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_S_MAX", 0.1)
    registry = LocalRegistry(path)
    await registry.put("/a", b"x")
    changes = registry.watch("/", 2)
    waiting = asyncio.ensure_future(anext(changes))
    hog = sqlite3.connect(path, isolation_level=None)
    hog.execute("begin immediate")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat())
        with pytest.raises(Unavailable) as raised:
            await registry.put("/a", b"y")
        beating.cancel()
    assert raised.value.code == "locked"
    assert str(path) in raised.value.message
    assert beats > 100  # while the put waited its 0.1 s, the loop went on
    assert len((await registry.list("/")).items) == 1  # readers do not wait for writers
    assert not waiting.done()
    hog.execute("rollback")
    hog.close()
    await registry.put("/a", b"z")
    async with asyncio.timeout(60):
        assert (await waiting)[0].value == b"z"
    await registry.close()


async def test_calls_that_wait_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "CALLS_MAX", 5)
    registry = LocalRegistry(path)
    answers = await asyncio.gather(*(registry.put("/a", b"x") for _ in range(20)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 15
    assert sorted(answer for answer in answers if isinstance(answer, int)) == [1, 2, 3, 4, 5]
    assert await registry.put("/a", b"x") == 6
    await registry.close()


async def test_a_cancelled_call_leaves_the_registry_usable(path: Path) -> None:
    registry = LocalRegistry(path)
    calls = [asyncio.ensure_future(registry.put(f"/{number}", b"")) for number in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    listing = await registry.list("/")
    assert {f"/{number}" for number in range(1, 50, 2)} <= {item.key for item in listing.items}
    assert listing.revision == len(listing.items)
    await registry.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + bytes(5000)])
async def test_a_broken_file_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(content)
    with pytest.raises(Unavailable) as raised:
        await open_registry(f"local://{path}")
    assert raised.value.code == "corrupt"
    assert str(path) in raised.value.message
    assert "delete it" in raised.value.message


async def test_a_file_of_another_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "later.db"
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(Unavailable, match="other_format"):
        await open_registry(f"local://{path}")


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match=r"registry file .*file/registry\.db"):
        await open_registry(f"local://{tmp_path}/file/registry.db")
    with pytest.raises(Unavailable, match="cannot_open"):
        await open_registry(f"local://{tmp_path}")


async def test_a_full_disk_is_named_and_recovered_from(path: Path) -> None:
    registry = LocalRegistry(path)
    await registry.put("/a", b"x")

    def limit(pages: int) -> None:
        assert registry._file is not None
        registry._file._db.execute(f"pragma max_page_count = {pages}")

    registry._thread.submit(limit, 1).result()  # as small as it is now
    with pytest.raises(Unavailable) as raised:
        await registry.put("/big", bytes(60_000))
    assert raised.value.code == "disk_full"
    assert [item.key for item in (await registry.list("/")).items] == ["/a"]
    registry._thread.submit(limit, 100_000).result()
    assert await registry.put("/big", bytes(60_000)) == 2
    await registry.close()


async def test_a_read_only_file_is_named_and_recovered_from(path: Path) -> None:
    registry = LocalRegistry(path)
    await registry.put("/a", b"x")

    def protect(on: int) -> None:
        assert registry._file is not None
        registry._file._db.execute(f"pragma query_only = {on}")

    registry._thread.submit(protect, 1).result()
    with pytest.raises(Unavailable) as raised:
        await registry.put("/a", b"y")
    assert raised.value.code == "read_only"
    registry._thread.submit(protect, 0).result()
    assert await registry.put("/a", b"y") == 2
    await registry.close()


def test_many_may_create_the_file_at_the_same_instant(path: Path) -> None:
    count, rounds = 8, 5
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    async def register(number: int, path: Path) -> None:
        registry = LocalRegistry(path)
        await registry.put(f"/{number}", b"")
        await registry.close()

    def opener(number: int) -> None:
        for attempt in range(rounds):
            barrier.wait()
            try:
                asyncio.run(register(number, path.with_name(f"{attempt}.db")))
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

    threads = [threading.Thread(target=opener, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for attempt in range(rounds):
        db = sqlite3.connect(path.with_name(f"{attempt}.db"))
        assert db.execute("select revision, (select count(*) from entry) from registry").fetchone() == (count, count)
        db.close()


async def test_the_file_stays_small_however_long_it_runs(path: Path) -> None:
    registry = LocalRegistry(path, history_revisions_max=100)
    for number in range(500):
        await registry.put("/a", os.urandom(1000), lease=0)
        if number % 100 == 0:
            await registry.keep_alive((await registry.grant(60)).id)
    db = sqlite3.connect(path)
    assert db.execute("select count(*) <= 100 from history").fetchone() == (1,)
    assert db.execute("pragma page_count").fetchone()[0] < 200
    db.close()
    await registry.close()


class TestOpening:
    async def test_by_url(self, tmp_path: Path) -> None:
        one, other = await open_registry("memory://"), await open_registry("memory://")
        assert isinstance(one, MemoryRegistry)
        assert one is not other
        spaced = tmp_path / "with space" / "r.db"
        local = await open_registry(f"local://{str(spaced).replace(' ', '%20')}")
        assert isinstance(local, LocalRegistry)
        assert spaced.exists()
        for registry in (one, other, local):
            await registry.close()

    @pytest.mark.parametrize("url", ["", "memory", "memory://x", "local://", "local:///", "local://host/x", "zk://h:1"])
    async def test_other_urls_are_refused_with_the_remedy(self, url: str) -> None:
        with pytest.raises(Invalid, match="local:///") as raised:
            await open_registry(url)
        assert raised.value.code == "registry_url"

    @pytest.mark.parametrize(
        "url",
        [
            "etcd3://u:hunter2@h:1",
            "etcd:/u:hunter2@h",
            "etcd:u:hunter2@h",
            "http://u:hunter2@[::1",
            "zk://u:hunter2/a@b@h?x",
            "etcdd://h?password=hunter2",
        ],
    )
    async def test_a_password_in_a_mistyped_url_is_not_repeated(self, url: str) -> None:
        with pytest.raises(Invalid, match="registry_url") as raised:
            await open_registry(url)
        assert "hunter2" not in f"{raised.value!r} {raised.value} {raised.value.fields}"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("/a", "/b"),
        ("/a\U0010ffff", "/b"),
        ("\U0010ffff", None),
        ("a\ud7ff", "a\ue000"),
        ("a\uffff", "a\U00010000"),
    ],
)
def test_where_a_prefix_ends(prefix: str, end: str | None) -> None:
    assert prefix_end(prefix) == end
