"""Group commit on a server that fails in every place there is: what is rerun, who hears what, what nobody can know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dougong.config import Secret
from dougong.errors import Conflict, Error, Invalid, Overloaded, Unavailable
from dougong.store import Migration, Row, Tx, Unit, Value
from dougong.store import _server_group as group
from dougong.store._dial import Dialer
from dougong.store._link import Link, Verdict
from dougong.store._reruns import Reruns
from dougong.store._server_group import ServerWriter
from dougong.store._server_url import ServerOptions
from dougong.store._waiting import Waiting, settle


class Fault(Exception):
    """What the pretended driver raises; the argument says what it is."""


VERDICTS: dict[str, Verdict] = {
    "deadlock": Verdict(Unavailable("deadlock", code="deadlock"), again=True),
    "lost": Verdict(Unavailable("gone", code="connection_lost"), lost=True),
    "refused": Verdict(Conflict("no", code="unique_violated")),
    "deferred": Verdict(Conflict("no", code="foreign_key_violated"), deferred=True),
    "full": Verdict(Unavailable("full", code="disk_full")),
    "slow": Verdict(Unavailable("slow", code="statement_timeout"), lost=True),
    "locked": Verdict(Unavailable("locked", code="locked")),
}


class Server:
    """A database of one list, and a script: what happens at the nth call of a kind."""

    options = ServerOptions("mysql", "nowhere", 1, "", Secret(""), "d")
    begin = "BEGIN"
    begin_snapshot = "BEGIN"
    refused = frozenset({"COMMIT"})

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.calls: list[str] = []
        self.script: dict[str, list[str | None]] = {}
        self.links: list[ScriptedLink] = []
        self.fragile = False

    def happens(self, call: str, *faults: str | None) -> None:
        """Faults of the next calls whose SQL begins so; None for none."""
        self.script[call] = list(faults)

    def called(self, call: str) -> None:
        self.calls.append(call)
        for start, faults in self.script.items():
            if call.startswith(start) and faults:
                fault = faults.pop(0)
                if fault is not None:
                    raise Fault(fault)

    async def connect(self, *, reads_only: bool = False) -> Link:
        self.called("connect")
        self.links.append(ScriptedLink(self))
        return self.links[-1]

    async def prepare(self, link: Link) -> None: ...

    async def migrate(self, link: Link, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
        return 0

    def judge(self, error: BaseException, sql: str = "") -> Verdict:
        if isinstance(error, Error):
            return Verdict(error)
        if isinstance(error, Fault):
            return VERDICTS[str(error)]
        return Verdict(Invalid(repr(error)))


class ScriptedLink:
    last_sql = ""
    guarded = False

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pending: list[str] = []
        self._marks: dict[str, int] = {}
        self.usable = True
        self.failed = False

    async def control(self, sql: str) -> None:
        await asyncio.sleep(0)
        assert self.usable
        for statement in sql.split("; "):
            if statement == "COMMIT" and "COMMIT after" in self._server.script:
                self._commit()
                self._server.called("COMMIT after")
            self._server.called(statement)
            if statement == "BEGIN":
                self._pending, self._marks = [], {}
            elif statement == "COMMIT":
                assert not self.failed
                self._commit()
            elif statement.startswith("SAVEPOINT"):
                self._marks[statement[10:]] = len(self._pending)
            elif statement.startswith("ROLLBACK TO"):
                del self._pending[self._marks[statement[22:]] :]
                self.failed = False
            elif statement == "ROLLBACK":
                self._pending, self.failed = [], False

    def _commit(self) -> None:
        self._server.kept += self._pending
        self._pending = []

    async def execute(self, sql: str, parameters: Sequence[Value]) -> int:
        await asyncio.sleep(0)
        assert self.usable
        assert not self.failed
        try:
            self._server.called(sql)
        except Fault as fault:
            self.failed = self._server.fragile and not self.guarded and str(fault) == "refused"
            raise
        self._pending.append(sql)
        return 1

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> int:
        return await self.execute(sql, ())

    async def fetch(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        await asyncio.sleep(0)
        return []

    def abort(self) -> None:
        self.usable = False


def put(word: str, *more: str) -> Unit[str]:
    async def unit(tx: Tx) -> str:
        for each in (word, *more):
            await tx.execute(each)
        return word

    return unit


def put_then_fail(word: str) -> Unit[None]:
    async def unit(tx: Tx) -> None:
        await tx.execute(word)
        raise ValueError(word)

    return unit


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def writer(server: Server) -> ServerWriter:
    dialer = Dialer(server, name="w")
    link = await dialer.connect()
    server.calls.clear()
    return ServerWriter(dialer, link, name="w", group_max=512, queued_max=100)


async def run(writer: ServerWriter, *units: Unit[object]) -> list[object]:
    return await asyncio.gather(*(writer.submit(unit) for unit in units), return_exceptions=True)


def codes(outcomes: list[object]) -> list[object]:
    return [getattr(outcome, "code", outcome) for outcome in outcomes]


async def test_a_group_is_one_begin_and_one_commit(server: Server, writer: ServerWriter) -> None:
    assert await run(writer, put("a"), put("b"), put("c")) == ["a", "b", "c"]
    assert server.calls == ["BEGIN", "a", "b", "c", "COMMIT"]
    assert server.kept == ["a", "b", "c"]
    await writer.close()


async def test_a_failed_unit_costs_savepoints_from_then_on(server: Server, writer: ServerWriter) -> None:
    outcomes = await run(writer, put("a"), put_then_fail("b"), put("c"))
    assert [str(outcome) for outcome in outcomes] == ["a", "b", "c"]
    assert isinstance(outcomes[1], ValueError)
    assert server.kept == ["a", "c"]
    assert server.calls[:4] == ["BEGIN", "a", "b", "ROLLBACK"]
    assert server.calls.count("SAVEPOINT unit") == 3


async def test_without_going_back_it_would_leave_traces(
    server: Server, writer: ServerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation of the rerun above."""

    async def keep(self: ServerWriter, link: Link, items: list[Waiting]) -> None:
        await link.control("COMMIT")
        for future, _, _ in items:
            settle(future, None, None)

    monkeypatch.setattr(ServerWriter, "_again_carefully", keep)
    await run(writer, put("a"), put_then_fail("b"))
    assert server.kept == ["a", "b"]


@pytest.mark.parametrize("fault", ["deadlock", "lost"])
@pytest.mark.parametrize("where", ["BEGIN", "b", "SAVEPOINT unit"])
async def test_what_is_nobodys_fault_runs_again(server: Server, writer: ServerWriter, fault: str, where: str) -> None:
    if where == "BEGIN" and fault == "deadlock":
        return
    if where == "SAVEPOINT unit":
        await run(writer, put("x"), put_then_fail("y"))
    server.happens(where, fault)
    outcomes = await run(writer, put("a"), put("b"), put("c"))
    assert outcomes == ["a", "b", "c"]
    assert server.kept[-3:] == ["a", "b", "c"]
    assert len(server.links) == (2 if fault == "lost" else 1)
    assert writer.fault is None


async def test_misfortune_without_end_is_a_failure_of_one(server: Server, writer: ServerWriter) -> None:
    server.happens("b", *["deadlock"] * 50)
    outcomes = await run(writer, put("a"), put("b"), put("c"))
    assert codes(outcomes) == ["a", "deadlock", "c"]
    assert server.kept == ["a", "c"]
    assert server.calls.count("b") == group.TRIES_MAX


async def test_reruns_are_paid_for(server: Server, writer: ServerWriter) -> None:
    """Who has no tokens left runs nothing again, and what succeeds brings them back."""
    writer._reruns = Reruns(lambda: 0.0, tokens_max=4, returned=0.5)
    server.happens("b", *["deadlock"] * 50)
    outcomes = await run(writer, put("a"), put("b"), put("c"))
    assert codes(outcomes) == ["deadlock_storm", "deadlock_storm", "c"]
    assert isinstance(outcomes[0], Overloaded)
    assert outcomes[0].retry_after_s == 1.0
    assert "in one order" in str(outcomes[0])
    assert server.kept == ["c"]
    assert server.calls.count("a") + server.calls.count("b") == 2 + 4, "as many as there were tokens"
    server.script.clear()
    await run(writer, *(put(f"more {number}") for number in range(10)))
    assert writer._reruns.tokens == 4
    server.happens("b", "deadlock")
    assert await run(writer, put("b")) == ["b"]


async def test_without_a_budget_a_storm_multiplies_the_load(server: Server, writer: ServerWriter) -> None:
    """Ablation of the above."""
    writer._reruns = Reruns(lambda: 0.0, tokens_max=float("inf"))
    for number in range(50):
        server.happens("b", *["deadlock"] * 50)
        assert codes(await run(writer, put("b"), put(f"x{number}"))) == ["deadlock", f"x{number}"]
    assert server.calls.count("b") == 50 * group.TRIES_MAX


async def test_lost_connections_cost_no_tokens(server: Server, writer: ServerWriter) -> None:
    writer._reruns = Reruns(lambda: 0.0, tokens_max=0)
    server.happens("b", "lost")
    assert await run(writer, put("a"), put("b")) == ["a", "b"]


async def test_reruns_wait_longer_and_longer(
    server: Server, writer: ServerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer._reruns = reruns = Reruns(lambda: 0.5)
    assert [round(reruns.wait_s(tries), 3) for tries in (1, 2, 3, 10)] == [0.005, 0.01, 0.02, 0.1]
    asked: list[int] = []

    def note(tries: int) -> float:
        asked.append(tries)
        return 0.0

    monkeypatch.setattr(reruns, "wait_s", note)
    server.happens("b", *["deadlock"] * 50)
    await run(writer, put("b"))
    assert asked == [1, 2, 3]


async def test_torn_down_while_a_rerun_waits(
    server: Server, writer: ServerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()

    def for_long(tries: int) -> float:
        waits.set()
        return 3600.0

    monkeypatch.setattr(writer._reruns, "wait_s", for_long)
    server.happens("b", "deadlock")
    waiting = [writer.submit(put("a")), writer.submit(put("b"))]
    await waits.wait()
    waiting.append(writer.submit(put("c")))
    assert writer._task is not None
    writer._task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert codes(list(outcomes)) == ["commit_unknown"] * 3
    assert server.kept == []


async def test_a_unit_that_takes_too_long_is_not_tried_again(server: Server, writer: ServerWriter) -> None:
    server.happens("b", "slow")
    outcomes = await run(writer, put("a"), put("b"), put("c"))
    assert codes(outcomes) == ["a", "statement_timeout", "c"]
    assert server.kept == ["a", "c"]
    assert server.calls.count("b") == 1


@pytest.mark.parametrize("done", [False, True])
async def test_a_commit_that_broke_is_unknown_and_says_so(server: Server, writer: ServerWriter, done: bool) -> None:
    server.happens("COMMIT after" if done else "COMMIT", "lost")
    outcomes = await run(writer, put("a"), put("b"))
    assert codes(outcomes) == ["commit_unknown"] * 2
    assert "look before repeating" in str(outcomes[0])
    assert server.kept == (["a", "b"] if done else [])
    assert server.calls.count("a") == 1, "what may have been kept is not written twice"
    server.script.clear()
    assert await run(writer, put("c")) == ["c"]


async def test_rerunning_after_an_unknown_commit_would_write_twice(
    server: Server, writer: ServerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation of the above: taken for an ordinary loss, the commit is kept and done again."""
    monkeypatch.setitem(VERDICTS, "lost", Verdict(Unavailable("gone", code="connection_lost"), again=True))
    server.happens("COMMIT after", "lost")
    await run(writer, put("a"))
    assert server.kept == ["a", "a"]


async def test_a_commit_of_nothing_is_simply_run_again(server: Server, writer: ServerWriter) -> None:
    async def look(tx: Tx) -> Row | None:
        return await tx.fetch_one("SELECT 1")

    server.happens("COMMIT", "lost")
    assert await run(writer, look) == [None]


async def test_a_refused_commit_fails_its_whole_group(server: Server, writer: ServerWriter) -> None:
    server.happens("COMMIT", "full")
    assert codes(await run(writer, put("a"), put("b"))) == ["disk_full"] * 2
    assert server.kept == []
    assert isinstance(writer.fault, Unavailable)
    assert await run(writer, put("c")) == ["c"]
    assert writer.fault is None


async def test_a_constraint_checked_at_commit_hurts_only_its_unit(server: Server, writer: ServerWriter) -> None:
    server.happens("COMMIT", "deferred", None, "deferred")
    outcomes = await run(writer, put("a"), put("orphan"), put("c"))
    assert codes(outcomes) == ["a", "foreign_key_violated", "c"]
    assert server.kept == ["a", "c"]


async def test_who_cannot_begin_tells_everybody(server: Server, writer: ServerWriter) -> None:
    server.happens("BEGIN", "locked")
    assert codes(await run(writer, put("a"), put("b"))) == ["locked"] * 2
    assert server.calls == ["BEGIN", "ROLLBACK"]
    server.happens("BEGIN", "lost", "lost")
    assert codes(await run(writer, put("a"), put("b"))) == ["connection_lost"] * 2
    server.happens("connect", "lost", "lost")
    server.links[-1].abort()
    assert codes(await run(writer, put("a"))) == ["connect_failed"]
    assert codes(await run(writer, put("a"))) == ["connect_failed"]
    assert await run(writer, put("a")) == ["a"], "and is there again by itself"


# Servers that give up a transaction when a statement fails (PostgreSQL)


async def test_a_caught_failure_is_undone_alone(server: Server, writer: ServerWriter) -> None:
    server.fragile = True
    server.happens("b", *["refused"] * 3)

    async def careful(tx: Tx) -> str:
        await tx.execute("x")
        try:
            await tx.execute("b")
        except Conflict:
            await tx.execute("instead")
        return "fine"

    assert await run(writer, put("a"), careful, put("c")) == ["a", "fine", "c"]
    assert server.kept == ["a", "x", "instead", "c"]


@pytest.mark.parametrize("alone", [False, True])
async def test_a_failure_at_the_end_still_takes_what_went_before(
    server: Server, writer: ServerWriter, alone: bool
) -> None:
    """The unit catches it and returns: what it wrote before is lost with the transaction, unless it runs again."""
    server.fragile = True
    server.happens("b", *["refused"] * 3)

    async def careful(tx: Tx) -> str:
        await tx.execute("x")
        try:
            await tx.execute("b")
        except Conflict:
            return "caught"
        return "none"

    units: list[Unit[object]] = [careful] if alone else [put("a"), careful]
    assert (await run(writer, *units))[-1] == "caught"
    assert server.kept[-1] == "x"


async def test_a_failed_statement_of_a_failed_unit(server: Server, writer: ServerWriter) -> None:
    server.fragile = True
    server.happens("b", *["refused"] * 3)
    assert codes(await run(writer, put("b"))) == ["unique_violated"]
    assert server.calls == ["BEGIN", "b", "ROLLBACK"], "alone it is not even run again"
    assert codes(await run(writer, put("a"), put("b"), put("c"))) == ["a", "unique_violated", "c"]
    assert server.kept == ["a", "c"]


# Bounds


async def test_groups_are_bounded(server: Server, writer: ServerWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    writer._group_max = 10
    await run(writer, *(put(str(i)) for i in range(25)))
    assert server.calls.count("COMMIT") == 3
    monkeypatch.setattr(group, "GROUP_S_MAX", 0.0)
    await run(writer, *(put(str(i)) for i in range(5)))
    assert server.calls.count("COMMIT") == 8  # no time at all still means one unit each


async def test_a_loop_that_is_torn_down_leaves_nobody_waiting(server: Server, writer: ServerWriter) -> None:
    waiting = [writer.submit(put("a")), writer.submit(put("b"))]
    await asyncio.sleep(0)
    assert writer._task is not None
    writer._task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert codes(list(outcomes)) == ["commit_unknown"] * 2


async def test_cancelled_while_it_waits(server: Server, writer: ServerWriter) -> None:
    waiting: list[asyncio.Future[str]] = [writer.submit(put("a")), writer.submit(put("b"))]
    waiting[0].cancel()
    assert await waiting[1] == "b"
    assert server.kept == ["b"]
