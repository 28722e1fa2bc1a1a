"""Coordinators, participants and recovery under every fault at once: the books must agree in the end.

Seeds are stories: loss, duplication, reordering, late arrival, crashes of coordinators between any two steps, operators
who cancel, slow disks. Each safeguard is then taken away, and the same stories must find it missing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tcc.world import SHELF, MemoryStore, Network, Purse, Shelf, Take, VirtualClock, VirtualLoop, in_virtual_time

from dougong.errors import Error
from dougong.store import Tx
from dougong.tcc import (
    BranchState,
    Coordinator,
    CoordinatorSettings,
    Decision,
    NewTransaction,
    ParticipantService,
    RetrySchedule,
)
from dougong.tcc.fence import Fence, FenceRow, SettleVerdict, TryVerdict
from dougong.tcc.fence_table import FenceTable
from dougong.tcc.log import Log

TOTAL = 30
SKUS: tuple[str, ...] = ("a", "b", "c")
SETTINGS = CoordinatorSettings(
    retry=RetrySchedule(base_s=0.1, cap_s=5.0, attempts=1000),
    scan_every_s=0.3,
    lease_s=2.0,
    max_batch=7,
    retention_s=40.0,
    forget_every_s=5.0,
)


class NoFence(Fence):
    """Takes every call at its word."""

    def judge_try(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], payloads: Sequence[bytes]
    ) -> TryVerdict:
        return TryVerdict(range(len(transactions)), [], [])

    def judge_settle(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], to: BranchState
    ) -> SettleVerdict:
        return SettleVerdict([t for t in transactions if t in known and known[t][1] is not None], [], [])


class NoSuspension(Fence):
    """Does not remember a Cancel that came before its Try."""

    def judge_settle(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], to: BranchState
    ) -> SettleVerdict:
        verdict = super().judge_settle(known, transactions, to)
        return SettleVerdict(verdict.run, verdict.answers, [])


class ForgivingTable(FenceTable):
    """Keeps the last payload only, so that a missing fence is not saved by its primary key."""

    _insert_tried = FenceTable._insert_tried.replace("INSERT", "INSERT OR REPLACE")
    _insert_other = FenceTable._insert_other.replace("INSERT", "INSERT OR REPLACE")

    async def settle(self, tx: Tx, scope: int, ids: Sequence[int], to: BranchState) -> None:
        pass

    async def _file(self, tx: Tx, scope: int, sent_us: int, ids: Sequence[int]) -> None:
        await tx.execute(
            "DELETE FROM dougong_fence_pages WHERE scope = ? AND sent_us = ? AND first_id = ?", (scope, sent_us, ids[0])
        )
        await super()._file(tx, scope, sent_us, ids)


class NoFloor(FenceTable):
    """Forgets what is over, and that it was over."""

    async def scope(self, tx: Tx, participant: str, initiator: str) -> tuple[int, int]:
        return (await super().scope(tx, participant, initiator))[0], 0


class BlindLog(Log):
    """Sets without comparing."""

    _expecting = ""


class Story:
    """One seed's run."""

    def __init__(
        self, seed: int, *, fence: Fence | None = None, table: FenceTable | None = None, log: Log | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self._log = log
        self.books = MemoryStore("orders", self._disk)
        self.books.db.executescript("CREATE TABLE begun (id INTEGER); CREATE TABLE decided (id INTEGER, yes INTEGER);")
        self.books.full = self._full
        self.network = Network(self.rng, faults=0.12)
        self.services: dict[str, ParticipantService[Any]] = {}
        self.shelves: dict[str, MemoryStore] = {}
        for kind in (Shelf, Purse):
            store = self.shelves[kind.service] = MemoryStore(kind.service, lambda: self.rng.random() * 0.01)
            store.full = self._full
            store.db.executescript(SHELF)
            store.db.executemany("INSERT INTO shelf (sku, available) VALUES (?, ?)", [(s, TOTAL) for s in SKUS])
            service = ParticipantService(kind(), store)
            if fence is not None:
                service._fence = fence
            if table is not None:
                service._table = table
            self.services[kind.service] = service
        self.wanted: dict[int, dict[str, Take]] = {}
        self.acknowledged: dict[int, bool] = {}
        self.done = False
        self.log: dict[int, int] = {}
        """The log when everything was settled, before it was forgotten."""

    def _disk(self) -> float:
        """Mostly fast; now and then slow enough for a decision to come too late."""
        return self.rng.random() * 0.01 if self.rng.random() < 0.95 or self.done else self.rng.random() * 5.0

    def _full(self) -> bool:
        return not self.done and self.rng.random() < 0.02

    async def tell(self, loop: VirtualLoop) -> None:
        for service in self.services.values():
            await service.start()
        nodes = [asyncio.create_task(self._node(loop, number)) for number in range(2)]
        operator = asyncio.create_task(self._operator())
        await asyncio.sleep(25.0)
        self.network.faults, self.done = 0.0, True
        operator.cancel()
        for node in nodes:
            node.cancel()
        await asyncio.gather(*nodes, operator, return_exceptions=True)
        last = self._coordinator(loop, 9)
        await last.start()
        await self.network.quiet()
        for _ in range(100):
            await asyncio.sleep(1.0)
            if not self.books.rows("SELECT 1 FROM dougong_transactions WHERE due_us IS NOT NULL"):
                break
        self.log = dict(self.books.rows("SELECT id, state FROM dougong_transactions"))
        await asyncio.sleep(90.0)  # until everything is forgotten, and the last copy has arrived
        await self.network.quiet()
        await last.stop()

    async def _node(self, loop: VirtualLoop, number: int) -> None:
        """A process that is killed and started again and again."""
        life = 0
        while True:
            life += 1
            coordinator = self._coordinator(loop, number)
            try:
                await coordinator.start()
            except Error:
                continue
            clients = [asyncio.create_task(self._client(coordinator, number)) for _ in range(2)]
            try:
                await asyncio.sleep(self.rng.random() * 8.0)
            finally:
                for task in [*clients, *coordinator._tasks, *coordinator._runs]:
                    task.cancel()  # kill -9: nobody cleans up
                for batcher in coordinator._tries.values():
                    await batcher.close()
            await asyncio.sleep(self.rng.random())

    async def _client(self, coordinator: Coordinator, number: int) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.5)
            transactions = [self._transaction(number) for _ in range(rng.randint(1, 4))]

            async def begin(tx: Tx, transactions: Sequence[NewTransaction] = transactions) -> None:
                await tx.execute_many("INSERT INTO begun VALUES (?)", [(t.id,) for t in transactions])

            for _ in range(rng.randint(1, 2)):  # a client that heard nothing asks again, one that heard may too
                try:
                    outcomes = await coordinator.run(transactions, begin=begin)
                except Error:
                    continue
                for outcome in outcomes:
                    known = self.acknowledged.setdefault(outcome.transaction, outcome.accepted)
                    assert known == outcome.accepted, f"transaction {outcome.transaction} was answered both ways"

    async def _operator(self) -> None:
        while True:
            await asyncio.sleep(self.rng.random() * 2.0)
            if self.wanted:
                try:
                    await self.books.write(lambda tx: _expire(tx, self.rng.choice(list(self.wanted))))
                except Error:
                    pass

    def _transaction(self, number: int) -> NewTransaction:
        rng = self.rng
        id_ = (len(self.wanted) + 1) * 2 + (number if rng.random() < 0.5 else 0) + (1000 if rng.random() < 0.2 else 0)
        while id_ in self.wanted:
            id_ += 1
        names = rng.choice(([Shelf.service], [Shelf.service, Purse.service], [Shelf.service, Purse.service]))
        branches = {name: Take(rng.choice(SKUS), rng.randint(1, 3)) for name in names}
        self.wanted[id_] = branches
        return NewTransaction(id_, branches)

    def _coordinator(self, loop: VirtualLoop, number: int) -> Coordinator:
        async def decide(tx: Tx, decisions: Sequence[Decision]) -> None:
            await tx.execute_many("INSERT INTO decided VALUES (?, ?)", [(d.transaction, d.accepted) for d in decisions])

        skew_s = self.rng.choice((0.0, 0.0, -5.0, 5.0)) if number < 2 else 0.0
        coordinator = Coordinator(
            self.books,
            initiator="orders",
            participants={name: self.network.client(name, service) for name, service in self.services.items()},
            decide=decide,
            clock=VirtualClock(loop, skew_s),
            settings=SETTINGS,
            random=self.rng.random,
        )
        if self._log is not None:
            for part in (coordinator, coordinator._settler, coordinator._recovery, coordinator._decider):
                part._log = self._log
        return coordinator

    def violations(self) -> list[str]:
        """What is wrong with the books; empty when nothing is."""
        found: list[str] = []
        log = self.log
        decided: dict[int, list[int]] = {}
        for id_, yes in self.books.rows("SELECT id, yes FROM decided"):
            decided.setdefault(id_, []).append(yes)
        found += [f"transaction {t} is left in state {s}" for t, s in log.items() if s not in (3, 5)]
        found += [f"transaction {t} was decided {len(d)} times" for t, d in decided.items() if len(d) != 1]
        begun = [id_ for (id_,) in self.books.rows("SELECT id FROM begun")]
        found += [f"transaction {t} began twice" for t in set(begun) if begun.count(t) > 1]
        found += [f"transaction {t} began and was never decided" for t in begun if t not in decided]
        found += [
            f"transaction {t}: decided {decided[t]}, logged {s}" for t, s in log.items() if decided[t] != [int(s == 3)]
        ]
        found += [
            f"transaction {t} was acknowledged as {yes}, decided {decided.get(t)}"
            for t, yes in self.acknowledged.items()
            if decided.get(t) != [int(yes)]
        ]
        stores = [*self.shelves.values(), self.books]
        tables = ("dougong_transactions", "dougong_transaction_pages", "dougong_fence", "dougong_fence_pages")
        for store in stores:
            for (table,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
                if table in tables and store.rows(f"SELECT 1 FROM {table}"):
                    found.append(f"{store.name} still remembers something in {table}")
        for name, store in self.shelves.items():
            sold = dict.fromkeys(SKUS, 0)
            for id_, yes in ((t, d[0]) for t, d in decided.items()):
                if yes and name in self.wanted[id_]:
                    sold[self.wanted[id_][name].sku] += self.wanted[id_][name].quantity
            for sku, available, frozen, got in store.rows("SELECT sku, available, frozen, sold FROM shelf"):
                if (available, frozen, got) != (TOTAL - sold[sku], 0, sold[sku]) or available < 0:
                    found.append(f"{name} {sku}: {available} + {frozen} + {got}, but {sold[sku]} of {TOTAL} were sold")
        return found


async def _expire(tx: Tx, transaction: int) -> None:
    if await tx.fetch_one("SELECT 1 FROM sqlite_master WHERE name = 'dougong_transactions'"):
        await tx.execute(
            "UPDATE dougong_transactions SET due_us = 0, code = 'cancelled' WHERE id = ? AND state = 1", (transaction,)
        )


def violations(seed: int, **safeguards: Any) -> list[str]:
    story = Story(seed, **safeguards)
    try:
        in_virtual_time(story.rng, story.tell)
    except AssertionError as error:
        return [str(error)]
    return story.violations()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_the_books_agree(seed: int) -> None:
    assert violations(seed) == []


def test_a_story_has_something_to_tell() -> None:
    story = Story(1)
    in_virtual_time(story.rng, story.tell)
    decided = [yes for (yes,) in story.books.rows("SELECT yes FROM decided")]
    assert 10 < sum(decided) < len(decided)
    assert {call for _, call, _ in story.network.calls} == {"try", "confirm", "cancel", "forget"}


@pytest.mark.parametrize(
    ("what", "safeguards"),
    [
        ("fence", {"fence": NoFence(), "table": ForgivingTable()}),
        ("suspension", {"fence": NoSuspension()}),
        ("floor", {"table": NoFloor()}),
        ("compare-and-set", {"log": BlindLog()}),
    ],
)
def test_a_missing_safeguard_is_found(what: str, safeguards: dict[str, Any]) -> None:
    found = (v for seed in range(50) for v in violations(seed, **safeguards))
    wrong_books = (v for v in found if "were sold" in v or "decided" in v or "both ways" in v)
    assert any(wrong_books), f"50 stories without {what} and nobody noticed"
