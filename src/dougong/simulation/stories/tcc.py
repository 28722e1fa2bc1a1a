"""Transactions under every fault at once: two coordinators on one log, two participants, and the books in the end.

Coordinators and participants are killed between any two callbacks and started again; the network loses, repeats and
delays; disks are slow, full, locked or gone; clocks are wrong and are set. Clients repeat what they were not told of,
also at the other coordinator; an operator cancels and retries; some transactions cannot be confirmed for a while and
are parked. Then all heals, and everything must be settled, agree with what was told, and be forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from dougong.contract import Message
from dougong.errors import Error
from dougong.rpc import Server, client, trust_everyone
from dougong.simulation.checks import conserved, monotonic, no_effect_after, one_outcome
from dougong.simulation.disk import Database
from dougong.simulation.faults import Chaos
from dougong.simulation.history import Outcome
from dougong.simulation.node import Process
from dougong.simulation.stories.tcc_without import SAFEGUARDS, Claims, weaken_coordinator, weaken_participant
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import MemoryDatabase, Tx, migrations_from
from dougong.tcc import (
    Coordinator,
    CoordinatorSettings,
    Decision,
    Hold,
    NewTransaction,
    Operator,
    Participant,
    ParticipantClient,
    ParticipantService,
    Refusal,
    RetrySchedule,
    TransactionState,
    Triggers,
    participant_service,
)
from dougong.tcc.transaction import TRANSITIONS
from dougong.tcc.wire import BranchReply, Forget, Forgotten, Settle, TryBatch

__all__ = ["story"]

TOTAL = 30
SKUS: tuple[str, ...] = ("a", "b", "c")
STORM_S = 9.0
REPEAT_S = 3.0
"""How old a transaction may be when a client repeats it: far less than the retention, less all the clocks' errors."""
SETTLED_S = 60.0
"""After the storm everything must be settled by then."""
FORGOTTEN_S = 65.0
"""Until the last copy of a request has arrived, and everything is forgotten."""
POISONED = 0.05
SETTINGS = CoordinatorSettings(
    retry=RetrySchedule(base_s=0.1, cap_s=5.0, attempts=8),
    scan_every_s=0.5,
    lease_s=2.0,
    max_batch=7,
    retention_s=25.0,
    forget_every_s=4.0,
    drain_s=0.5,
)
LAST = msgspec.structs.replace(SETTINGS, scan_every_s=2.0, forget_every_s=15.0, triggers=Triggers(message=False))
HOLD_S = 4.0
HELD = 0.3
"""Of the transactions that clients begin, held for a word of somebody's."""
FINAL = (TransactionState.CONFIRMED, TransactionState.CANCELLED)
LOG_TABLES = ("dougong_transactions", "dougong_transaction_pages")
FENCE_TABLES = ("dougong_fence", "dougong_fence_pages")

SHELF = """
CREATE TABLE shelf (sku TEXT PRIMARY KEY, available INTEGER, frozen INTEGER DEFAULT 0, sold INTEGER DEFAULT 0);
INSERT INTO shelf (sku, available) VALUES ('a', 30), ('b', 30), ('c', 30);
CREATE TABLE effects (number INTEGER PRIMARY KEY, transaction_id INTEGER, what TEXT, at_s REAL);
"""
ORDERS = """
CREATE TABLE begun (id INTEGER);
CREATE TABLE held (id INTEGER);
CREATE TABLE decided (id INTEGER, accepted INTEGER);
CREATE TABLE moves (number INTEGER PRIMARY KEY, id INTEGER, state INTEGER);
CREATE TRIGGER moved AFTER UPDATE OF state ON dougong_transactions
    BEGIN INSERT INTO moves (id, state) VALUES (new.id, new.state); END;
"""


class Take(Message):
    """What a transaction asks of a participant."""

    sku: str
    quantity: int


class _Shelf(Participant[Take], service="dougong.simulation.v1.Shelf", payload=Take):
    """Stock as simple as can be: no CHECK, so that a mistake shows in the books instead of failing the call."""

    def __init__(self, world: World, poisoned: set[int]) -> None:
        self._world = world
        self._poisoned = poisoned

    async def try_(self, tx: Tx, holds: Sequence[Hold[Take]]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        tried: list[Hold[Take]] = []
        for hold in holds:
            took = await tx.execute(
                "UPDATE shelf SET available = available - ?, frozen = frozen + ? WHERE sku = ? AND available >= ?",
                (hold.payload.quantity, hold.payload.quantity, hold.payload.sku, hold.payload.quantity),
            )
            answers.append(None if took else Refusal("insufficient_stock", f"not enough of {hold.payload.sku}"))
            if took:
                tried.append(hold)
        await self._write_down(tx, "try", tried)
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        if self._poisoned and any(hold.transaction in self._poisoned for hold in holds):
            raise RuntimeError("poison")
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, sold = sold + ? WHERE sku = ?", holds)
        await self._write_down(tx, "confirm", holds)

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, available = available + ? WHERE sku = ?", holds)
        await self._write_down(tx, "cancel", holds)

    async def _move(self, tx: Tx, sql: str, holds: Sequence[Hold[Take]]) -> None:
        await tx.execute_many(sql, [(hold.payload.quantity, hold.payload.quantity, hold.payload.sku) for hold in holds])

    async def _write_down(self, tx: Tx, what: str, holds: Sequence[Hold[Take]]) -> None:
        await tx.execute_many(
            "INSERT INTO effects (transaction_id, what, at_s) VALUES (?, ?, ?)",
            [(hold.transaction, what, self._world.now_s) for hold in holds],
        )


class _Purse(_Shelf, service="dougong.simulation.v1.Purse", payload=Take):
    """A second participant."""


_PARTICIPANTS: Mapping[str, type[_Shelf]] = {"shelf": _Shelf, "purse": _Purse}


class _Watched:
    """A participant's client that notes when a Cancel was acknowledged."""

    def __init__(self, world: World, remote: ParticipantClient, cancelled: dict[int, float]) -> None:
        self._world = world
        self._remote = remote
        self._cancelled = cancelled

    async def try_(self, request: TryBatch, /) -> BranchReply:
        return await self._remote.try_(request)

    async def confirm(self, request: Settle, /) -> BranchReply:
        return await self._remote.confirm(request)

    async def forget(self, request: Forget, /) -> Forgotten:
        return await self._remote.forget(request)

    async def cancel(self, request: Settle, /) -> BranchReply:
        reply = await self._remote.cancel(request)
        refused = set(reply.items)
        for i, transaction in enumerate(request.transactions):
            if i not in refused:
                self._cancelled.setdefault(transaction, self._world.now_s)
        return reply


class _Tale:
    """One telling."""

    def __init__(self, world: World, without: str) -> None:
        self.world = world
        self.without = without
        self.over = False
        self.books = world.database("orders")
        self.books.set_up(_set_up_books)
        self.shelves = {name: world.database(name) for name in _PARTICIPANTS}
        for shelf in self.shelves.values():
            shelf.set_up(_set_up_shelf)
        self.wanted: dict[int, NewTransaction] = {}
        self.asked_s: dict[int, float] = {}
        self.held: list[int] = []
        """Those that a client was told are held."""
        self.poisoned: set[int] = set()
        self.cancelled: dict[str, dict[int, float]] = {name: {} for name in _PARTICIPANTS}
        """By participant: when a Cancel was first acknowledged."""
        self.claims: Claims = []
        draw = world.random.random
        self.settings = msgspec.structs.replace(
            SETTINGS, triggers=Triggers(call=draw() < 0.8, message=draw() < 0.4, scan=True)
        )
        self.log: list[tuple[int, int]] = []
        """The log when everything was settled, before it was forgotten."""

    async def tell(self) -> Sequence[str]:
        world = self.world
        for name in _PARTICIPANTS:
            world.node(name).start(self._participant)
        orders = [world.node(f"orders-{number}") for number in (1, 2)]
        for node in orders:
            node.start(self._orders)
        world.node("desk", crashes=False).start(self._desk)
        await asyncio.sleep(STORM_S)
        self.over = True
        self.poisoned.clear()
        world.heal()
        for node in orders:
            node.stop()
        world.node("last", crashes=False).start(self._last)
        for _ in range(int(SETTLED_S)):
            await asyncio.sleep(1.0)
            if not self.books.rows("SELECT 1 FROM dougong_transactions WHERE state NOT IN (3, 5) LIMIT 1"):
                break
        self.log = self.books.rows_as(tuple[int, int], "SELECT id, state FROM dougong_transactions ORDER BY id")
        await asyncio.sleep(FORGOTTEN_S)
        return self.violations()

    async def _participant(self, process: Process) -> None:
        kind = _PARTICIPANTS[process.name]
        service = ParticipantService(kind(self.world, self.poisoned), process.store())
        weaken_participant(service, self.without)  # type: ignore[arg-type]
        await service.start()
        server = Server([service], authenticator=trust_everyone, transport=process.transport)
        await server.start(f"{process.name}:1")

    async def _orders(self, process: Process) -> None:
        coordinator = await self._coordinator(process, self.settings)
        await asyncio.gather(*(self._client(process, coordinator, f"{process.name}/{n}") for n in (1, 2)))

    async def _last(self, process: Process) -> None:
        """After the storm: one coordinator that finishes everything, and an operator who leaves nothing parked."""
        coordinator = await self._coordinator(process, LAST)
        while True:
            await coordinator.operator.retry(sorted(self.wanted))
            await asyncio.sleep(10.0)

    async def _coordinator(self, process: Process, settings: CoordinatorSettings) -> Coordinator:
        participants: dict[str, ParticipantClient] = {}
        for name, kind in _PARTICIPANTS.items():
            remote = client(
                participant_service(kind),
                f"{name}:1",
                transport=process.transport,
                random=process.random,
                patience_s=0.05,
            )
            participants[kind.service] = _Watched(self.world, remote, self.cancelled[name])

        async def decide(tx: Tx, decisions: Sequence[Decision]) -> None:
            held = [(d.transaction,) for d in decisions if d.held]
            decided = [(d.transaction, d.accepted) for d in decisions if not d.held]
            await tx.execute_many("INSERT INTO held VALUES (?)", held)
            await tx.execute_many("INSERT INTO decided VALUES (?, ?)", decided)

        coordinator = Coordinator(
            process.store("orders"),
            initiator="orders",
            participants=participants,
            decide=decide,
            clock=process.clock,
            settings=settings,
            random=process.random.random,
        )
        weaken_coordinator(coordinator, self.without, self.claims, f"{process.name} in life {process.number}")
        await coordinator.start()
        return coordinator

    async def _client(self, process: Process, coordinator: Coordinator, name: str) -> None:
        draw, history = process.random, self.world.history
        while not self.over:
            await asyncio.sleep(draw.random() * 0.6)
            if self.held and draw.random() < 0.25:
                await self._word(process, coordinator, name)
                continue
            young = [t for t in list(self.wanted)[-12:] if self.asked_s[t] > self.world.now_s - REPEAT_S]
            if young and draw.random() < 0.3:  # somebody who was told nothing asks again, perhaps elsewhere
                transactions = [self.wanted[draw.choice(young)]]
            else:
                transactions = [self._transaction(process) for _ in range(draw.randint(1, 4))]

            async def begin(tx: Tx, transactions: Sequence[NewTransaction] = transactions) -> None:
                await tx.execute_many("INSERT INTO begun VALUES (?)", [(t.id,) for t in transactions])

            hold = draw.random() < HELD
            calls = [history.invoke(name, "hold" if hold else "run", t.id) for t in transactions]
            try:
                if hold:
                    outcomes = await coordinator.hold(transactions, expires_s=draw.random() * HOLD_S + 0.1, begin=begin)
                else:
                    outcomes = await coordinator.run(transactions, begin=begin)
            except Error as error:
                for call in calls:
                    history.unknown(call, error.code)
                continue
            for call, outcome in zip(calls, outcomes, strict=True):
                history.ok(call, None if outcome.held else outcome.accepted)
                if outcome.held:
                    self.held.append(outcome.transaction)

    async def _word(self, process: Process, coordinator: Coordinator, name: str) -> None:
        """Somebody's word about what is held, perhaps against somebody else's, and perhaps too late."""
        draw, history = process.random, self.world.history
        transaction = draw.choice(self.held[-6:])
        yes = draw.random() < 0.6
        call = history.invoke(name, "confirm" if yes else "cancel", transaction)
        try:
            if yes:
                (outcome,) = await coordinator.confirm([transaction])
            else:
                (outcome,) = await coordinator.cancel([transaction])
        except Error as error:
            history.unknown(call, error.code)
        else:
            history.ok(call, outcome.accepted)

    async def _desk(self, process: Process) -> None:
        """An operator who cancels what is undecided and retries what is parked, whether or not it makes sense."""
        operator, draw = Operator(process.store("orders")), process.random
        while not self.over:
            await asyncio.sleep(draw.random() * 2.0)
            if not self.wanted:
                continue
            recent = list(self.wanted)[-6:]
            try:
                if draw.random() < 0.5:
                    await operator.cancel(draw.choice(recent))
                else:
                    await operator.retry(recent)
            except Error:
                pass  # decided already, forgotten, or the disk is full

    def _transaction(self, process: Process) -> NewTransaction:
        draw = process.random
        id_ = (len(self.wanted) + 1) * 2 + draw.randint(0, 1) + (1000 if draw.random() < 0.2 else 0)
        while id_ in self.wanted:
            id_ += 1
        names = [_Shelf.service] if draw.random() < 0.33 else [_Shelf.service, _Purse.service]
        branches = {name: Take(sku=draw.choice(SKUS), quantity=draw.randint(1, 3)) for name in names}
        transaction = self.wanted[id_] = NewTransaction(id_, branches)
        self.asked_s[id_] = self.world.now_s
        if draw.random() < POISONED:
            self.poisoned.add(id_)
        return transaction

    def violations(self) -> list[str]:
        """What is wrong in the end."""
        books = self.books
        decided = books.rows_as(tuple[int, int], "SELECT id, accepted FROM decided")
        begun = [id_ for (id_,) in books.rows_as(tuple[int], "SELECT id FROM begun")]
        told = [
            (msgspec.convert(call.key, int), int(bool(call.result)))
            for call in self.world.history.calls
            if call.outcome is Outcome.OK and call.result is not None
        ]
        logged = [(id_, int(state == TransactionState.CONFIRMED)) for id_, state in self.log if state in FINAL]
        found = [
            f"transaction {id_} is left {TransactionState(state).name.lower()}"
            for id_, state in self.log
            if state not in FINAL
        ]
        found += one_outcome("transaction", [*decided, *told, *logged], keys=begun)
        found += _once("transaction", "was decided", [id_ for id_, _ in decided])
        found += _once("transaction", "began", begun)
        found += _once("transaction", "was held", [id_ for (id_,) in books.rows_as(tuple[int], "SELECT id FROM held")])
        unheard = {id_ for id_, _ in told}.difference(id_ for id_, _ in decided)
        found += [f"transaction {id_} was acknowledged and never decided" for id_ in sorted(unheard)]
        moves = [(id_, TransactionState.TRYING) for id_ in begun]
        moves += books.rows_as(tuple[int, TransactionState], "SELECT id, state FROM moves ORDER BY number")
        found += monotonic("transaction", moves, allowed=TRANSITIONS)
        found += self._claimed_twice()
        yes = dict(decided)
        for name, shelf in self.shelves.items():
            found += self._books(name, shelf, yes)
        for database, tables in [(self.books, LOG_TABLES), *((s, FENCE_TABLES) for s in self.shelves.values())]:
            for table in tables:
                if database.has_table(table) and database.rows(f"SELECT 1 FROM {table} LIMIT 1"):  # noqa: S608
                    found.append(f"{database.name} still remembers something in {table}")
        return found

    def _books(self, name: str, shelf: Database, accepted: Mapping[int, int]) -> list[str]:
        """One participant's stock, and what happened to it, against what was decided."""
        service = _PARTICIPANTS[name].service
        sold = dict.fromkeys(SKUS, 0)
        for id_, yes in accepted.items():
            take = self.wanted[id_].branches.get(service)
            if yes and isinstance(take, Take):
                sold[take.sku] += take.quantity
        found: list[str] = []
        stock = shelf.rows_as(tuple[str, int, int, int], "SELECT sku, available, frozen, sold FROM shelf")
        for sku, available, frozen, got in stock:
            found += conserved(f"{name} {sku}", TOTAL, {"available": available, "frozen": frozen, "sold": got})
            if (frozen, got) != (0, sold[sku]):
                found.append(f"{name} {sku}: {frozen} frozen, {got} sold, but {sold[sku]} were ordered")
        effects = shelf.rows_as(
            tuple[int, str, float], "SELECT transaction_id, what, at_s FROM effects ORDER BY number"
        )
        happened = [(id_, what) for id_, what, _ in effects]
        found += no_effect_after(f"{name}: transaction", happened, last=("confirm", "cancel"))
        cancelled = self.cancelled[name]
        found += [
            f"{name}: transaction {id_} was tried at {at_s:.3f} s, after its Cancel at {cancelled[id_]:.3f} s"
            for id_, what, at_s in effects
            if what == "try" and id_ in cancelled and at_s > cancelled[id_]
        ]
        return found + _once(f"{name}: transaction", "was tried", [id_ for id_, what in happened if what == "try"])

    def _claimed_twice(self) -> list[str]:
        """Nobody takes over what somebody has just taken over: the lease must have moved it out of reach."""
        last: dict[int, tuple[str, int, int]] = {}
        found: list[str] = []
        for id_, owner, now_us, until_us, due_us in self.claims:
            other, until, due = last.get(id_, (owner, 0, -1))
            if other != owner and due == due_us > 0 and now_us < until:
                found.append(f"transaction {id_} was taken over by {owner} while {other} had it")
            last[id_] = owner, until_us, due_us
        return found


def _once(what: str, happened: str, keys: Sequence[int]) -> list[str]:
    counts: dict[int, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return [f"{what} {key} {happened} {count} times" for key, count in counts.items() if count > 1]


def _set_up_books(books: MemoryDatabase) -> None:
    books.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"), 0)
    books.run_script(ORDERS)


def _set_up_shelf(shelf: MemoryDatabase) -> None:
    shelf.migrate("dougong.tcc.fence", migrations_from("dougong.tcc.migrations.fence"), 0)
    shelf.run_script(SHELF)


async def _tell(world: World, without: str) -> Sequence[str]:
    return await _Tale(world, without).tell()


story = Story(
    name="tcc",
    title="transactions over two participants, under every fault",
    tell=_tell,
    safeguards=SAFEGUARDS,
    chaos=Chaos(
        crash_every_s=4.5,
        down_s=0.6,
        partition_every_s=12.0,
        partition_s=2.0,
        request_lost=0.04,
        answer_lost=0.05,
        request_twice=0.07,
        request_late=0.05,
        write_slow=0.03,
        disk_full=0.02,
        disk_locked=0.01,
        disk_gone_every_s=12.0,
        disk_gone_s=1.0,
        clock_skew_s=2.0,
        clock_drift=0.001,
        clock_jump_every_s=8.0,
        clock_jump_s=2.0,
    ),
)
