"""Some of the databases of a sharded store fail, real ones: the others go on, errors say which and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from tests import engines

from dougong.errors import Error, Unavailable
from dougong.evidence.engines import SERVERS, Server
from dougong.shard import Layout, ShardedStore, open_sharded_store
from dougong.store import Migration, Tx, Unit

pytestmark = pytest.mark.processes

SCHEMA = [Migration(1, "notes", "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, call_ BIGINT, body TEXT)")]
FRAIL, SOUND = ("db-0", "db-1"), ("db-2", "db-3")
"""Databases on a server that fails, and on one that does not. Buckets lie in turn: `key % 4` is a key's database."""
REMEDIES = "check that|tried again soon|look before repeating|left alone"


@pytest.fixture(params=list(SERVERS), scope="module")
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def frail(dialect: str) -> Iterator[Server]:
    """A server of this module's own, to be killed."""
    made = engines.make_server(dialect)
    yield made
    made.remove()


@contextlib.contextmanager
def layout_over(frail: Server, dialect: str) -> Generator[Layout]:
    with contextlib.ExitStack() as stack:
        sound = engines.server(dialect)
        servers = dict.fromkeys(FRAIL, frail) | dict.fromkeys(SOUND, sound)
        urls = {name: stack.enter_context(server.database()) for name, server in servers.items()}
        yield Layout("notes", stack.enter_context(sound.database()), urls)


@pytest.fixture
def layout(frail: Server, dialect: str) -> Iterator[Layout]:
    with layout_over(frail, dialect) as layout:
        yield layout


@pytest.fixture
async def notes(layout: Layout) -> AsyncIterator[ShardedStore]:
    store = await open_sharded_store(layout)
    await store.migrate("notes", SCHEMA)
    yield store
    await store.close()


def note(key: int, rows: int = 2, body: str = "") -> Unit[int]:
    """Rows `key`, `key + 128`, ..., all of one bucket: all or none are there."""

    async def unit(tx: Tx) -> int:
        for number in range(rows):
            await tx.execute("INSERT INTO notes VALUES (?, ?, ?)", (key + 128 * number, key, body))
        return key

    return unit


async def kept(store: ShardedStore) -> dict[int, int]:
    """Unit → its rows, in all databases."""
    found: dict[int, int] = {}
    for bucket in range(4):
        rows = await store.store_at(bucket).fetch_all("SELECT call_, count(*) FROM notes GROUP BY call_")
        found.update({int(str(call)): int(str(count)) for call, count in rows})
    return found


async def back(store: ShardedStore, key: int) -> None:
    """Until this key's database takes writes again."""
    async with asyncio.timeout(60):
        while True:
            try:
                await store.store_of(key).write(lambda tx: tx.execute("UPDATE notes SET call_ = call_ WHERE id = -1"))
                return
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_a_killed_server_takes_only_its_own_shards_along(notes: ShardedStore, frail: Server) -> None:
    """kill -9 under load. Of each call it is known whether it was kept, except where the error says so."""
    acknowledged: set[int] = set()
    unknown: set[int] = set()
    errors: list[Error] = []
    done = [0, 0, 0, 0]
    over = False

    async def caller(shard: int) -> None:
        number = 0
        while not over:
            number += 1
            key = shard + 4 * (number % 32) + 256 * number
            try:
                acknowledged.add(await notes.store_of(key).write(note(key)))
                done[shard] += 1
            except Unavailable as error:
                errors.append(error)
                if error.code == "commit_unknown":
                    unknown.add(key)
                await asyncio.sleep(0.01)

    async def all_did(more: int, *shards: int) -> None:
        goals = {shard: done[shard] + more for shard in shards}
        async with asyncio.timeout(60):
            while any(done[shard] < goal for shard, goal in goals.items()):
                await asyncio.sleep(0.005)

    async def trouble() -> None:
        nonlocal over
        for _ in range(2):
            await all_did(20, 0, 1, 2, 3)
            await asyncio.to_thread(frail.kill)
            before = done[0], done[1]
            await all_did(20, 2, 3)
            assert max(done[0] - before[0], done[1] - before[1]) <= 1, "no more than what was answered before the kill"
            frail.start()  # not in a thread: a server dies with the one that started it
        await all_did(20, 0, 1, 2, 3)
        over = True

    await asyncio.gather(trouble(), *(caller(shard) for shard in range(4)))
    found = await kept(notes)
    assert acknowledged <= found.keys()
    assert found.keys() <= acknowledged | unknown, "what was said to have failed is not there"
    assert set(found.values()) == {2}, "no unit is half there"
    assert {str(error.fields["shard"]) for error in errors} == set(FRAIL)
    codes = {error.code for error in errors}
    assert codes <= {"connection_lost", "connect_failed", "commit_unknown", "breaker_open", "shard_unavailable"}
    for error in errors:
        assert any(remedy in error.message for remedy in REMEDIES.split("|")), error.message


async def test_a_connection_cut_in_mid_unit_costs_nobody_anything(
    notes: ShardedStore, frail: Server, dialect: str
) -> None:
    runs = 0

    async def unit(tx: Tx) -> int:
        nonlocal runs
        runs += 1
        await tx.execute("INSERT INTO notes (id, call_) VALUES (0, 0)")
        if runs == 1:
            cut_connections(frail, dialect)
        await tx.execute("INSERT INTO notes (id, call_) VALUES (128, 0)")
        return runs

    others = (notes.store_of(key).write(note(key)) for key in (2, 3))
    assert await asyncio.gather(notes.store_of(0).write(unit), *others) == [2, 2, 3]
    assert await notes.store_of(1).write(note(1)) == 1  # on another connection that was cut, while idle
    assert await kept(notes) == {0: 2, 1: 2, 2: 2, 3: 2}


def cut_connections(server: Server, dialect: str) -> None:
    """As a firewall or an operator would."""
    if dialect == "postgresql":
        server.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname LIKE 'test_%'")
        return
    kills = server.sql("SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE db LIKE 'test_%'")
    server.sql("; ".join(kills.split("\n")))


async def test_a_store_opens_beside_a_server_that_is_down(layout: Layout, frail: Server) -> None:
    first = await open_sharded_store(layout)
    await first.migrate("notes", SCHEMA)
    await first.close()
    await asyncio.to_thread(frail.stop)
    notes = await open_sharded_store(layout)
    try:
        for key in (0, 1):
            with pytest.raises(Unavailable, match=REMEDIES) as down:
                await notes.store_of(key).write(note(key))
            assert (down.value.code, down.value.fields["shard"]) == ("connect_failed", f"db-{key}")
            assert await notes.store_of(key + 2).write(note(key + 2)) == key + 2
        with pytest.raises(Unavailable, match=REMEDIES) as unmigrated:
            await notes.migrate("notes", SCHEMA)
        assert unmigrated.value.fields["shard"] in FRAIL
        frail.start()  # not in a thread: a server dies with the one that started it
        for key in (0, 1):
            await back(notes, key)
            assert await notes.store_of(key).write(note(key)) == key
        assert await kept(notes) == {0: 2, 1: 2, 2: 2, 3: 2}
    finally:
        await notes.close()


def _may_mount() -> bool:
    """A disk that really is full needs the right to mount a small one."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None or shutil.which("mount") is None:
        return False
    command = [unshare, "-m", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if _may_mount():
    SIZE_MB, LEFT = 320, 4 << 20

    def _body() -> str:
        """What no server makes smaller.

        It fits into a page: MariaDB 10.11 ends itself when it has to take back what lies outside of pages.
        """
        return os.urandom(1_500).hex()

    @pytest.fixture
    def small_disk() -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="dougong-small-"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)], check=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()

    async def test_a_full_disk_stops_only_what_lies_on_it(small_disk: Path, dialect: str) -> None:
        home = small_disk / "server"
        home.mkdir()
        server = SERVERS[dialect](home)
        try:
            with layout_over(server, dialect) as layout:
                await _fill(small_disk, server, layout)
        finally:
            server.remove()

    async def _fill(disk: Path, server: Server, layout: Layout) -> None:
        notes = await open_sharded_store(layout)
        await notes.migrate("notes", SCHEMA)
        if notes.dialect == "postgresql":  # room in the log, which it makes in files of 16 MB: tables are full first
            server.sql("CHECKPOINT")
            server.sql("SELECT pg_switch_wal()")
        acknowledged = {await notes.store_of(key).write(note(key)) for key in range(4)}
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - LEFT)
        key, full = 0, None
        while full is None:
            key += 1024
            assert key < 1024 * 10_000, "the disk does not fill up"
            try:
                acknowledged.add(await notes.store_of(key).write(note(key, 8, _body())))
            except Unavailable as error:
                full = error
        assert (full.code, full.fields["shard"]) == ("disk_full", "db-0")
        assert "free space" in full.message
        assert await notes.store_of(2 + 1024).write(note(2 + 1024)), "others go on"
        acknowledged.add(2 + 1024)
        rows = await notes.store_of(0).fetch_one("SELECT count(*) FROM notes WHERE call_ = 0")
        assert rows == (2,), "what is there is read"
        ballast.unlink()
        await back(notes, 0)
        assert await notes.store_of(key).write(note(key, 8, _body())) == key
        acknowledged.add(key)
        found = await kept(notes)
        assert found == {call: 2 if call < 4 or call % 4 else 8 for call in acknowledged}
        await notes.close()
