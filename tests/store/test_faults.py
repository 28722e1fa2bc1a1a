"""Disks fail: each way has a name, nothing is half-written, and it goes away when the cause does."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dougong.errors import Invalid, Unavailable
from dougong.store import Tx, Unit, open_store
from dougong.store._url import parse_sqlite_url
from dougong.store.sqlite import SqliteStore, connect


def insert(key: int, size: int = 0) -> Unit[int]:
    async def unit(tx: Tx) -> int:
        return await tx.execute("INSERT INTO things (id, name) VALUES (?, ?)", (key, f"{key}:" + "x" * size))

    return unit


@pytest.mark.parametrize(
    "url",
    [
        "orders.db",
        "sqlite:orders.db",
        "sqlite://orders.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db#x",
        "sqlite:///a.db?",
        "sqlite:///a.db?synchronous=maybe",
        "sqlite:///a.db?synchronus=full",
        "sqlite:///a.db?lock_timeout_s=-1",
        "sqlite:///a.db?cache_mb=0",
        "sqlite:///a.db?cache_mb=-1",
        "sqlite:///a.db?cache_mb=1.5",
        "sqlite:///a.db?cache_mb=99999999999",
        "oracle://x/y",
    ],
)
async def test_wrong_urls(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if url == "sqlite:///a.db?":
        await (await open_store(url)).close()  # nothing after the question mark is no option
        return
    with pytest.raises(Invalid) as refused:
        await open_store(url)
    assert refused.value.code == "bad_database_url"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "pages_kib"), [("", 16 * 1024), ("?cache_mb=3", 3 * 1024)])
async def test_the_writer_keeps_as_much_in_memory_as_was_said(option: str, pages_kib: int, tmp_path: Path) -> None:
    options = parse_sqlite_url(f"sqlite:///{tmp_path}/a.db{option}")
    for reads_only in (False, True):
        connection = connect(options, create=True, reads_only=reads_only)
        ((size,),) = connection.execute("PRAGMA cache_size").fetchall()
        assert (size == -pages_kib) is not reads_only
        connection.close()


async def test_odd_but_right_paths(tmp_path: Path) -> None:
    (tmp_path / "a b%20?").mkdir()
    store = await open_store(f"sqlite:///{tmp_path}/a b%2520%3F/ö.db")
    await store.close()
    assert (tmp_path / "a b%20?" / "ö.db").exists()


async def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"{tmp_path}/none does not exist; create it") as missing:
        await open_store(f"sqlite:///{tmp_path}/none/a.db")
    assert missing.value.code == "directory_missing"


async def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await open_store(f"sqlite:///{tmp_path}")
    assert refused.value.code == "cannot_open"


async def test_garbage_instead_of_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, just some text that is long enough to be looked at" * 100)
    with pytest.raises(Unavailable, match="restore a backup") as corrupt:
        await open_store(f"sqlite:///{tmp_path}/a.db")
    assert corrupt.value.code == "corrupt"
    assert corrupt.value.fields["path"] == str(tmp_path / "a.db")


async def test_damage_in_the_middle(store: SqliteStore) -> None:
    await asyncio.gather(*(store.write(insert(i, 500)) for i in range(500)))
    await store.close()
    damaged = bytearray(store.path.read_bytes())
    damaged[8192:-4096] = b"\xff" * (len(damaged) - 8192 - 4096)
    store.path.write_bytes(damaged)
    again = await open_store(f"sqlite:///{store.path}")
    with pytest.raises(Unavailable) as read:
        await again.fetch_all("SELECT * FROM things")
    with pytest.raises(Unavailable) as written:
        await again.write(insert(1000))
    assert read.value.code == written.value.code == "corrupt"
    await again.close()


async def test_locked_by_another(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/a.db?lock_timeout_s=0.1")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT)")
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(*(store.write(insert(i)) for i in range(3)), return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["locked"] * 3
    assert await store.fetch_all("SELECT * FROM things") == []  # readers do not care
    with pytest.raises(Unavailable):
        await store.check()
    waiting = asyncio.create_task(store.write(insert(1)))
    await asyncio.sleep(0.02)
    other.execute("ROLLBACK")
    assert await waiting == 1
    await store.check()
    other.close()
    await store.close()


async def test_a_full_database_refuses_and_recovers(store: SqliteStore) -> None:
    """`max_page_count` fills up like a disk does, in the middle of a statement."""
    await store.write(insert(1))
    connection = store._writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    outcomes = await asyncio.gather(
        store.write(insert(2)), store.write(insert(3, 100_000)), store.write(insert(4)), return_exceptions=True
    )
    assert [outcomes[0], outcomes[2]] == [1, 1]
    assert isinstance(outcomes[1], Unavailable)
    assert outcomes[1].code == "disk_full"
    assert "free space" in outcomes[1].message
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.write(insert(3, 100_000))
    assert await store.fetch_all("SELECT id FROM things ORDER BY id") == [(1,), (2,), (3,), (4,)]


async def test_a_failed_commit_fails_its_whole_group(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        raise error

    monkeypatch.setattr(store._writer, "_sync", fail)
    outcomes = await asyncio.gather(*(store.write(insert(i)) for i in range(3)), return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["io_error"] * 3
    monkeypatch.undo()
    assert await store.fetch_all("SELECT id FROM things") == []
    await store.check()  # finds out by writing
    await store.write(insert(1))
    assert await store.fetch_all("SELECT id FROM things") == [(1,)]


# A small disk, a small file-size limit, a directory of somebody else's: each needs a process of its own.

FULL = """
import asyncio, os, resource, sys
from dougong.errors import Unavailable
from dougong.store import Migration, open_store

async def main(folder, how):
    store = await open_store(f"sqlite:///{folder}/a.db")
    await store.migrate("t", [Migration(1, "t", "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")])
    def unit(key, size):
        async def insert(tx):
            await tx.execute("INSERT INTO t VALUES (?, ?)", (key, "x" * size))
        return insert
    filler = folder + "/filler"
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    else:
        space = os.statvfs(folder)
        with open(filler, "wb") as file:
            file.write(b"x" * (space.f_bavail * space.f_frsize - 400_000))
    acknowledged, codes = [], set()
    for key in range(200):
        outcomes = await asyncio.gather(store.write(unit(key, 20_000)), store.write(unit(1000 + key, 1)),
                                        return_exceptions=True)
        for number, outcome in zip((key, 1000 + key), outcomes):
            if outcome is None:
                acknowledged.append(number)
            else:
                assert isinstance(outcome, Unavailable), outcome
                codes.add(outcome.code)
    assert acknowledged and codes <= {"disk_full", "io_error"} and codes, (len(acknowledged), codes)
    if how != "limit":
        assert codes == {"disk_full"}, codes
    rows = await store.fetch_all("SELECT id FROM t ORDER BY id")
    assert [row[0] for row in rows] == sorted(acknowledged), "exactly what was acknowledged is there"
    if how == "limit":  # a disk may have room for check's few bytes, a limit has not
        try:
            await store.check()
        except Unavailable:
            pass
        else:
            raise SystemExit("check says that all is well")
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        os.remove(filler)
    await store.check()
    await store.write(unit(5000, 20_000))
    await store.close()
    store = await open_store(f"sqlite:///{folder}/a.db")
    rows = await store.fetch_all("SELECT id FROM t ORDER BY id")
    assert [row[0] for row in rows] == sorted([*acknowledged, 5000]), "after reopening, too"
    await store.close()
    print("fine", len(acknowledged), codes)

asyncio.run(main(*sys.argv[1:]))
"""

READ_ONLY = """
import asyncio, os, sys
from dougong.errors import Unavailable
from dougong.store import Migration, open_store
import dougong.store.sqlite, encodings.idna

async def main(folder):
    url = f"sqlite:///{folder}/a.db"
    store = await open_store(url)
    await store.migrate("t", [Migration(1, "t", "CREATE TABLE t (id INTEGER PRIMARY KEY)")])
    await store.close()
    os.chmod(folder + "/a.db", 0o444)
    os.chmod(folder, 0o555)
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 0)  # root may write anywhere
    codes = []
    for path in (url, f"sqlite:///{folder}/new.db"):
        try:
            store = await open_store(path)
        except Unavailable as refused:
            codes.append(refused.code)
            assert folder in refused.message
        else:
            async def unit(tx):
                await tx.execute("INSERT INTO t VALUES (1)")
            try:
                await store.write(unit)
            except Unavailable as refused:
                codes.append(refused.code)
            await store.close()
    print(codes)
    os.seteuid(os.getresuid()[2])
    os.chmod(folder, 0o777)
    os.chmod(folder + "/a.db", 0o666)
    store = await open_store(url)
    await store.check()
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def run(program: str, *arguments: str) -> str:
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _small_disks() -> list[str]:
    """A real full disk needs the right to mount one; a file-size limit needs none."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return ["limit"]
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
        )
        if tried.returncode != 0:
            return ["limit"]
        subprocess.run(["umount", folder], check=True)
    return ["limit", "disk"]


@pytest.fixture(params=_small_disks())
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    if request.param == "limit":
        yield tmp_path, "limit"
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path, "disk"
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.processes
def test_a_full_disk_refuses_and_recovers(small_disk: tuple[Path, str]) -> None:
    folder, how = small_disk
    assert run(FULL, str(folder), how).startswith("fine")


@pytest.mark.processes
def test_without_the_right_to_write(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        codes = run(READ_ONLY, folder).strip()
    assert codes == "['read_only', 'cannot_open']"
