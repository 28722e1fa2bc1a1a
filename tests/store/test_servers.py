"""Servers die, hang, come back, and are set up wrongly: MariaDB and PostgreSQL, real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests import engines

from dougong.clock import ManualClock
from dougong.errors import Internal, Invalid, Unavailable
from dougong.evidence.engines import QUOTED, SERVERS, PostgreSQL, Server
from dougong.store import Migration, Row, Store, Tx, Unit, open_pool, open_store
from dougong.store._reruns import Reruns
from dougong.store._server_group import judge
from dougong.store.mysql import MySQLLink
from dougong.store.server import ServerStore

pytestmark = pytest.mark.processes

SCHEMA = [Migration(1, "things", "CREATE TABLE things (id BIGINT PRIMARY KEY, amount BIGINT)")]


@pytest.fixture(params=list(SERVERS))
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(dialect: str) -> Iterator[Server]:
    """One of the test's own, to be killed."""
    made = engines.make_server(dialect)
    yield made
    made.remove()


@pytest.fixture
def shared(dialect: str) -> Server:
    """This worker's, to be left alone."""
    return engines.server(dialect)


@pytest.fixture
def url(shared: Server) -> Iterator[str]:
    with shared.database() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[ServerStore]:
    opened = await open_store(url + "&lock_timeout_s=1")
    assert isinstance(opened, ServerStore)
    await opened.migrate("things", SCHEMA)
    yield opened
    await opened.close()


def insert(key: int) -> Unit[int]:
    async def unit(tx: Tx) -> int:
        await tx.execute("INSERT INTO things (id, amount) VALUES (?, 0)", (key,))
        await tx.execute("UPDATE things SET amount = amount + 1 WHERE id = 0")
        return key

    return unit


async def back(store: Store) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await store.check()
                return
            except Unavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("callers", [1, 50])
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(server: Server, callers: int) -> None:
    """kill -9 in mid-load, three times; the callers go on as soon as it is there again."""
    with server.database() as url:
        store = await open_store(url)
        await store.migrate("things", SCHEMA)
        await store.write(lambda tx: tx.execute("INSERT INTO things (id, amount) VALUES (0, 0)"))
        acknowledged: list[int] = []
        unknown: list[int] = []
        codes: set[str] = set()
        over = False

        async def caller(number: int) -> None:
            key = number * 1_000_000
            while not over:
                key += 1
                try:
                    acknowledged.append(await store.write(insert(key)))
                except Unavailable as error:
                    codes.add(error.code)
                    if error.code == "commit_unknown":
                        unknown.append(key)
                    await asyncio.sleep(0.01)

        async def trouble() -> None:
            nonlocal over
            for _ in range(3):
                goal = len(acknowledged) + 100
                async with asyncio.timeout(60):
                    while len(acknowledged) < goal:
                        await asyncio.sleep(0.005)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(0.02)
                await asyncio.to_thread(server.start)
            over = True

        await asyncio.gather(trouble(), *(caller(number) for number in range(1, callers + 1)))
        await back(store)
        present = {row[0] for row in await store.fetch_all("SELECT id FROM things WHERE id > 0")}
        assert set(acknowledged) <= present
        assert present <= {*acknowledged, *unknown}, "what was said to have failed is not there"
        assert await store.fetch_one("SELECT amount FROM things WHERE id = 0") == (len(present),), "no unit half there"
        assert codes <= {"connect_failed", "breaker_open", "connection_lost", "commit_unknown"}
        await store.close()


async def test_a_restart_between_two_calls_goes_unnoticed(server: Server) -> None:
    with server.database() as url:
        store = await open_store(url)
        await store.migrate("things", SCHEMA)
        await store.write(insert(1))
        assert await store.fetch_one("SELECT id FROM things") == (1,)
        await asyncio.to_thread(server.stop)
        for attempt in (lambda: store.write(insert(2)), lambda: store.fetch_one("SELECT 1"), store.check):
            with pytest.raises(Unavailable, match="check that") as gone:
                await attempt()
            assert gone.value.code == "connect_failed"
        await asyncio.to_thread(server.start)
        assert await store.write(insert(2)) == 2
        assert await store.fetch_all("SELECT id FROM things ORDER BY id") == [(1,), (2,)]
        await store.check()
        await store.close()


async def test_a_connection_cut_in_mid_unit_is_made_anew(store: ServerStore, shared: Server) -> None:
    runs = 0

    async def unit(tx: Tx) -> int:
        nonlocal runs
        runs += 1
        await tx.execute("INSERT INTO things (id) VALUES (1)")
        if runs == 1:
            cut_connections(shared, store.dialect)
        await tx.execute("INSERT INTO things (id) VALUES (2)")
        return runs

    assert await store.write(unit) == 2
    assert await store.fetch_all("SELECT id FROM things ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_is_no_more_holds_no_turn(store: ServerStore, url: str, how: signal.Signals) -> None:
    """Killed, its connection is gone; stopped, the server ends what is idle in the middle of a transaction."""
    program = """
import asyncio, sys
from dougong.store import open_store

async def main(url):
    store = await open_store(url)
    async def unit(tx):
        await tx.execute("INSERT INTO things (id) VALUES (7)")
        print("held", flush=True)
        sys.stdin.read()
    await store.write(unit)

asyncio.run(main(sys.argv[1]))
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program, url + "&statement_timeout_s=3"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Unavailable) as locked:
        await store.write(insert(1))
    assert locked.value.code == "locked"
    assert await store.fetch_all("SELECT id FROM things") == []  # readers do not care
    holder.send_signal(how)
    codes: set[str] = set()
    async with asyncio.timeout(60):
        while True:
            try:
                await store.write(insert(2))
                break
            except Unavailable as error:
                codes.add(error.code)
    assert codes <= {"locked"}
    holder.kill()
    holder.communicate()
    assert await store.fetch_all("SELECT id FROM things") == [(2,)]


async def test_statements_have_a_deadline(url: str, dialect: str) -> None:
    store = await open_store(url + "&statement_timeout_s=1")
    await store.migrate("things", SCHEMA)
    slow = "SELECT sleep(60)" if dialect == "mysql" else "SELECT pg_sleep(60)"
    late = await asyncio.gather(
        store.fetch_one(slow), store.read(lambda tx: tx.fetch_one(slow)), return_exceptions=True
    )
    assert [getattr(outcome, "code", outcome) for outcome in late] == ["statement_timeout"] * 2
    outcomes = await asyncio.gather(
        store.write(insert(1)),
        store.write(lambda tx: tx.fetch_one(slow)),
        store.write(insert(2)),
        return_exceptions=True,
    )
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [1, "statement_timeout", 2]
    await store.close()


async def test_a_server_that_hangs_does_not_hang_us(server: Server) -> None:
    with server.database() as url:
        store = await open_store(url + "&statement_timeout_s=1&connect_timeout_s=1&lock_timeout_s=1")
        await store.migrate("things", SCHEMA)
        server.pause()
        try:
            for attempt in (store.write(insert(1)), store.fetch_one("SELECT 1")):
                async with asyncio.timeout(60):
                    with pytest.raises(Unavailable) as late:
                        await attempt
                assert late.value.code in ("statement_timeout", "connect_failed")
        finally:
            server.resume()
        await back(store)
        await store.write(insert(2))
        assert (2,) in await store.fetch_all("SELECT id FROM things")
        await store.close()


KILL_ALL = {
    "mysql": "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE db LIKE 'test_%'",
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'",
}


def cut_connections(server: Server, dialect: str) -> None:
    """As a firewall or an operator would."""
    answer = server.sql(KILL_ALL[dialect])
    if dialect == "mysql":
        server.sql("; ".join(answer.split("\n")))


async def test_nobody_gets_another_s_rows_after_a_cancelled_statement(url: str, dialect: str) -> None:
    pool = open_pool(url + "&readers=1")
    slow = {"mysql": "SELECT 'secret', sleep(0.02)", "postgresql": "SELECT 'secret', pg_sleep(0.02)"}[dialect]
    for moment in range(20):  # before it is sent, under way, answered: wherever it is by then
        lease = await pool.acquire()
        task = asyncio.create_task(lease.fetch_all(slow))
        await asyncio.sleep(moment * 0.0015)
        task.cancel()
        rows: list[Row] = []
        with contextlib.suppress(asyncio.CancelledError):
            rows = await task
        lease.release()
        async with await pool.acquire() as next_:
            assert await next_.fetch_all("SELECT ?", (str(moment),)) == [(str(moment),)]
        assert task.cancelled() or rows[0][0] == "secret"
    pool.close()


async def test_connections_cut_while_idle_are_found_out_before_use(url: str, shared: Server, dialect: str) -> None:
    clock = ManualClock()
    pool = open_pool(url + "&readers=2", clock=clock)
    (await pool.acquire()).release()
    cut_connections(shared, dialect)
    clock.advance(1)
    async with await pool.acquire() as lease:
        assert await lease.fetch_one("SELECT 1") == (1,)
    (await pool.acquire()).release()
    cut_connections(shared, dialect)  # used just now, so nobody asks: what it costs
    async with await pool.acquire() as lease:
        with pytest.raises(Unavailable) as lost:
            await lease.fetch_one("SELECT 1")
        assert lost.value.code == "connection_lost"
    assert pool.idle == 0
    pool.close()


async def test_a_database_that_is_down_is_left_alone_until_it_is_back(server: Server) -> None:
    with server.database() as url:
        store = await open_store(url)
        await store.migrate("things", SCHEMA)
        await asyncio.to_thread(server.stop)
        codes: list[str] = []
        for _ in range(10):
            with pytest.raises(Unavailable) as gone:
                await store.fetch_one("SELECT 1")
            codes.append(gone.value.code)
        with pytest.raises(Unavailable, match="left alone"):
            await store.write(insert(1))
        assert codes[0] == "connect_failed"
        assert codes[-1] == "breaker_open"
        with pytest.raises(Unavailable) as at_start:
            await open_store(url)
        assert at_start.value.code == "connect_failed"
        await asyncio.to_thread(server.start)
        await back(store)
        assert await store.write(insert(2)) == 2
        await store.close()


class Storm:
    """Strangers who take no turns lock the same rows in the opposite order."""

    def __init__(self, store: ServerStore) -> None:
        self._store = store
        self.runs = self.asked = self.done = 0
        self.codes: set[str] = set()
        self._theirs: set[str] = set()
        self._over = False
        self._strangers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        rows = [(key,) for key in range(1, 400)]
        await self._store.migrate("things", SCHEMA)
        await self._store.write(lambda tx: tx.execute_many("INSERT INTO things VALUES (?, 0)", rows))
        self._strangers = [asyncio.create_task(self._stranger(number)) for number in (1, 2, 3)]

    async def call(self, units: int = 10) -> None:
        """So many units at once."""
        self.asked += units
        outcomes = await asyncio.gather(*(self._store.write(self._both) for _ in range(units)), return_exceptions=True)
        self.done += outcomes.count(None)
        self.codes |= {getattr(outcome, "code", repr(outcome)) for outcome in outcomes if outcome is not None}

    async def end(self) -> None:
        """All goes on as before, and everything was done as often as was acknowledged."""
        self._over = True
        await asyncio.gather(*self._strangers)
        assert self._theirs <= {"deadlock"}
        self._store._writer._reruns = Reruns(lambda: 0.0)
        before = self.done
        await self.call()
        assert self.done == before + 10
        rows = await self._store.fetch_all("SELECT id, amount FROM things WHERE id < 3 ORDER BY id")
        assert rows == [(1, self.done), (2, self.done)]

    async def _both(self, tx: Tx) -> None:
        self.runs += 1
        for key in (1, 2):
            await tx.execute("UPDATE things SET amount = amount + 1 WHERE id = ?", (key,))

    async def _stranger(self, number: int) -> None:
        store = self._store
        link = await store._dialer.connect()
        # Rows of its own, because MariaDB undoes whoever has changed less.
        own = f"UPDATE things SET amount = amount + 1 WHERE id BETWEEN {number}00 AND {number}90"
        while not self._over:
            try:
                await link.control(f"BEGIN; {own}; UPDATE things SET amount = amount WHERE id = 2")
                await link.control("UPDATE things SET amount = amount WHERE id = 1; COMMIT")
            except Exception as error:  # noqa: BLE001 (every driver has its own)
                self._theirs.add(judge(error, store._engine).fault.code)
                await link.control("ROLLBACK")
        link.abort()


@pytest.fixture
async def storm(url: str, shared: Server, dialect: str) -> AsyncIterator[Storm]:
    if dialect == "postgresql":
        database = urlsplit(url).path[1:]
        shared.sql(f"ALTER DATABASE {database} SET deadlock_timeout = '10ms'")
    store = await open_store(url)
    assert isinstance(store, ServerStore)
    made = Storm(store)
    await made.start()
    yield made
    await made.end()
    await store.close()


async def test_a_storm_of_deadlocks_undoes_and_repeats_whole_units(storm: Storm) -> None:
    async with asyncio.timeout(60):
        while storm.runs < storm.asked + 5:  # until it was seen often enough
            await storm.call()
    assert storm.codes <= {"deadlock"}, "whoever had bad luck once too often hears so"


async def test_a_storm_cannot_multiply_the_load(storm: Storm) -> None:
    """All that runs again is paid for; when the tokens are spent, callers hear it and nothing runs again."""
    storm._store._writer._reruns = Reruns(lambda: 0.0, tokens_max=8, returned=0.0)
    async with asyncio.timeout(60):
        while "deadlock_storm" not in storm.codes:
            await storm.call()
            assert storm.runs <= storm.asked + 8
    assert storm.codes <= {"deadlock", "deadlock_storm"}


async def test_without_a_budget_it_would(storm: Storm) -> None:
    """Ablation of the above."""
    storm._store._writer._reruns = Reruns(lambda: 0.0, tokens_max=float("inf"))
    async with asyncio.timeout(60):
        while storm.runs <= storm.asked + 8:
            await storm.call()
    assert "deadlock_storm" not in storm.codes


# Opening


async def test_over_the_network_with_a_password(shared: Server) -> None:
    with shared.database(tcp=True) as url:
        store = await open_store(url)
        await store.migrate("things", SCHEMA)
        assert await store.write(insert(1)) == 1
        await store.close()
        assert QUOTED in url
        with pytest.raises(Unavailable) as refused:
            await open_store(url.replace(QUOTED, "wr%40ng"))
        assert "wr%40ng" not in str(refused.value)
        assert "wr@ng" not in str(refused.value)
        assert "dougong@127.0.0.1" in str(refused.value)


async def test_no_such_database(shared: Server) -> None:
    with pytest.raises(Unavailable, match="nothing_here"):
        await open_store(shared.url("nothing_here"))


async def test_nobody_listens(dialect: str) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/") as refused:
        await open_store(f"{dialect}://user:s3cret@127.0.0.1:1/orders")
    assert refused.value.code == "connect_failed"
    assert "s3cret" not in repr(refused.value)


async def test_somebody_listens_and_says_nothing(dialect: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(Unavailable) as refused:
            await open_store(f"{dialect}://user@127.0.0.1:{port}/orders?connect_timeout_s=0.2")
    assert refused.value.code == "connect_failed"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "//",
        "//host",
        "//host/",
        "//host/a/b",
        "///orders",
        "//host:port/orders",
        "//host/orders#x",
        "//host/orders?durability=maybe",
        "//host/orders?readers=0",
        "//host/orders?readers=many",
        "//host/orders?lock_timeout_s=-1",
        "//host/orders?statement_timeout_s=0",
        "//host/orders?unknown=1",
        "//user:s3cret@host/orders?unknown=1",
        "//user:s3cret@ho/st/orders",
        "//user:s3cret@[/orders",
        "//us:s3cret#er@host/orders",
    ],
)
async def test_wrong_urls(dialect: str, rest: str) -> None:
    with pytest.raises(Invalid) as refused:
        await open_store(f"{dialect}:{rest}")
    assert refused.value.code == "bad_database_url"
    assert "s3cret" not in repr(refused.value)


async def test_a_server_that_does_not_sync_is_refused(server: Server, dialect: str) -> None:
    with server.database() as url:
        if dialect == "mysql":
            server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        else:
            server.sql("ALTER SYSTEM SET fsync = off")
            server.sql("SELECT pg_reload_conf()")
            async with asyncio.timeout(60):
                while server.sql("SHOW fsync") != "off":
                    await asyncio.sleep(0.01)
        with pytest.raises(Invalid, match="durability=relaxed") as refused:
            await open_store(url)
        assert refused.value.code == "not_durable"
        store = await open_store(url + "&durability=relaxed")
        await store.migrate("things", SCHEMA)
        await store.write(insert(1))
        await store.close()


async def test_commits_are_synced(url: str, dialect: str) -> None:
    if dialect != "postgresql":
        return  # there it is the server's setting: see above
    for durability, setting in (("full", "on"), ("relaxed", "off")):
        store = await open_store(f"{url}&durability={durability}")
        assert await store.write(lambda tx: tx.fetch_one("SHOW synchronous_commit")) == (setting,)
        await store.close()


async def test_a_database_without_unicode_is_refused(shared: Server, dialect: str) -> None:
    if dialect != "mysql":
        return
    shared.sql("CREATE DATABASE old CHARACTER SET latin1")
    with pytest.raises(Invalid, match="ALTER DATABASE old CHARACTER SET utf8mb4") as refused:
        await open_store(shared.url("old"))
    assert refused.value.code == "not_unicode"
    shared.sql("DROP DATABASE old")


async def test_tables_changed_under_prepared_statements(store: ServerStore, shared: Server) -> None:
    """Another process migrates in a rolling update; ours goes on."""
    database = store.name
    for i in range(10):
        await store.write(insert(i))
        await store.write(lambda tx: tx.fetch_all("SELECT * FROM things"))
        await asyncio.gather(*(store.fetch_all("SELECT * FROM things") for _ in range(4)))
    alter = "ALTER TABLE things ADD COLUMN more BIGINT"
    if store.dialect == "mysql":
        shared.sql(f"USE {database}; {alter}")
    else:
        assert isinstance(shared, PostgreSQL)
        shared.sql(alter, database)
    for _ in range(5):
        assert len((await store.write(lambda tx: tx.fetch_all("SELECT * FROM things")))[0]) == 3
        assert len((await store.fetch_all("SELECT * FROM things"))[0]) == 3


def rows(*keys: int) -> Unit[int]:
    return lambda tx: tx.execute_many("INSERT INTO things (id, amount) VALUES (?, 0)", [(key,) for key in keys])


async def a_trigger_comes_to_be(store: ServerStore, shared: Server) -> None:
    """A second one, of which MariaDB believes that it was there already when the statements were prepared."""
    note = "ON things FOR EACH ROW INSERT INTO notes VALUES"
    shared.sql(
        f"USE {store.name}; CREATE TABLE notes (id BIGINT); CREATE TRIGGER gone AFTER DELETE {note} (OLD.id)",
    )
    await store.write(insert(-1))
    await store.write(rows(-2, -3))
    shared.sql(f"USE {store.name}; SET timestamp = 1; CREATE TRIGGER noted AFTER INSERT {note} (NEW.id)")


@pytest.mark.parametrize("dialect", ["mysql"], indirect=True)
async def test_a_trigger_that_comes_late_is_noticed_by_prepared_statements(store: ServerStore, shared: Server) -> None:
    await a_trigger_comes_to_be(store, shared)
    await asyncio.gather(*(store.write(insert(key)) for key in range(1, 4)), store.write(rows(4, 5)))
    await store.write(rows(6, 7))
    noted = await store.fetch_all("SELECT id FROM notes ORDER BY id")
    assert [key for (key,) in noted] == [1, 2, 3, 4, 5, 6, 7]
    kept = await store.fetch_all("SELECT id FROM things WHERE id > 0 ORDER BY id")
    assert kept == noted


@pytest.mark.parametrize("dialect", ["mysql"], indirect=True)
async def test_without_a_look_at_their_plans_they_fail_each_time(
    store: ServerStore, shared: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MySQLLink, "_look_at_plan", lambda *_: None)
    await a_trigger_comes_to_be(store, shared)
    for key in range(1, 4):
        with pytest.raises(Internal, match=r"notes' doesn't exist") as failed:
            await store.write(insert(key))
        assert failed.value.code == "bad_sql"


async def test_a_table_that_is_dropped_under_prepared_statements_is_missing(store: ServerStore, shared: Server) -> None:
    await store.write(insert(1))
    await store.fetch_all("SELECT * FROM things WHERE id = ?", (1,))
    if store.dialect == "mysql":
        shared.sql(f"DROP TABLE {store.name}.things")
    else:
        assert isinstance(shared, PostgreSQL)
        shared.sql("DROP TABLE things", store.name)
    for attempt in (
        store.write(insert(2)),
        store.write(rows(3, 4)),
        store.fetch_all("SELECT * FROM things WHERE id = ?", (1,)),
    ):
        with pytest.raises(Internal, match="things") as missing:
            await attempt
        assert missing.value.code == "bad_sql"


async def test_errors_never_show_the_password(dialect: str) -> None:
    from dougong.store._server_url import parse_server_url

    options = parse_server_url(f"{dialect}://user:s3cret@host/orders")
    assert "s3cret" not in repr(options) + str(options) + options.where
    assert options.where == f"{dialect}://user@host:{options.port}/orders"


def test_a_driver_that_is_missing_is_named(dialect: str) -> None:
    program = f"""
import asyncio, sys
sys.modules["asyncmy"] = sys.modules["psycopg"] = None
from dougong.store import open_store
try:
    asyncio.run(open_store("{dialect}://user@host/orders"))
except Exception as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    extra = {"mysql": "mysql", "postgresql": "postgres"}[dialect]
    assert f"pip install 'dougong[{extra}]'" in done.stdout
