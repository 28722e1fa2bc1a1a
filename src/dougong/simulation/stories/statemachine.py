"""Bookings that are held, paid, checked and finished, or run out of time: several processes, events that come twice and
late, crashes, wrong clocks, and a new definition while they live.

One row of seats is the books: a booking takes a seat when it is made, and either its payment or its timeout settles it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from dougong.errors import Error, Unavailable
from dougong.simulation.checks import conserved, durable, one_outcome
from dougong.simulation.faults import Chaos
from dougong.simulation.history import Call, Outcome, Plain
from dougong.simulation.node import Process
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.statemachine import Deadline, Fire, Machine, Rule, State, TimekeeperSettings, Transition
from dougong.statemachine.history import HistoryTable
from dougong.statemachine.rows import Rows
from dougong.statemachine.table import MIGRATE
from dougong.store import Migration, Tx

__all__ = ["story"]

BOOKINGS = 14
"""As many as there are seats."""
CALM_S = 150.0
"""The last booking is made about then."""
PATIENCE_S = 3.0
"""How long a client waits for an answer before it sends the event again."""
QUIET_S = 2000.0
"""Longer than any instance can live once nothing goes wrong."""

SETTINGS = TimekeeperSettings(
    scan_every_s=0.7, rows_at_once=4, retry_s=5.0, skew_s=20.0, sweep_every_s=30.0, sweep_again_s=4.0, sweep_rows=3
)

Answer: TypeAlias = "Transition[int] | Error | None"
"""None: the booking is made."""


class _Seats:
    """The actions of both definitions: a payment sells the seat, a timeout gives it back."""

    async def sell(self, tx: Tx, transitions: Sequence[Transition[int]]) -> None:
        await tx.execute("UPDATE seats SET held = held - ?, sold = sold + ?", (len(transitions),) * 2)

    async def give_back(self, tx: Tx, transitions: Sequence[Transition[int]]) -> None:
        await tx.execute("UPDATE seats SET held = held - ?, free = free + ?", (len(transitions),) * 2)


class Bookings(_Seats, Machine[int], table="bookings", name="booking", version=1):
    """As it was first."""

    states = (
        State("held", initial=True, deadline=Deadline(20.0, "expire")),
        State("paid", deadline=Deadline(40.0, "close")),
        State("checked"),
        State("closed", final=True),
        State("expired", final=True),
    )
    rules = (
        Rule("held", "pay", "paid", action="sell"),
        Rule("held", "expire", "expired", action="give_back"),
        Rule("paid", "check", "checked"),
        Rule("checked", "recheck", "paid"),
        Rule(("paid", "checked"), "close", "closed"),
    )


class BookingsAgain(
    _Seats, Machine[int], table="bookings", name="booking", version=2, migrations={1: {"checked": "verified"}}
):
    """The next one: a state has another name, and a deadline."""

    states = (
        State("held", initial=True, deadline=Deadline(20.0, "expire")),
        State("paid", deadline=Deadline(40.0, "close")),
        State("verified", deadline=Deadline(25.0, "close")),
        State("closed", final=True),
        State("expired", final=True),
    )
    rules = (
        Rule("held", "pay", "paid", action="sell"),
        Rule("held", "expire", "expired", action="give_back"),
        Rule("paid", "check", "verified"),
        Rule("verified", "recheck", "paid"),
        Rule(("paid", "verified"), "close", "closed"),
    )


TABLES = ";".join(  # noqa: FLY002 (a list of statements)
    (
        "CREATE TABLE bookings (id INTEGER PRIMARY KEY)",
        "CREATE TABLE seats (free INTEGER NOT NULL, held INTEGER NOT NULL, sold INTEGER NOT NULL)",
        "INSERT INTO seats VALUES (14, 0, 0)",
        Bookings.schema_sql(),
    )
)

STEPS = {
    (source, event, move.target)
    for machine in (Bookings, BookingsAgain)
    for source, ways in machine.declaration.table.moves.items()
    for event, some in ways.items()
    for move in some
} | {("checked", MIGRATE, "verified")}


class Request(msgspec.Struct, frozen=True):
    """Something on its way to a worker: a booking to make, or an event for one."""

    what: int | Fire[int]
    looks_first: bool
    """Whether the worker reads the booking first and fires at what it saw."""
    answer: asyncio.Future[Answer]


class Worker:
    """A process that fires what it is asked to and keeps the time. With the new definition from `upgrade_s` on."""

    def __init__(self, world: World, process: Process, without: str, upgrade_s: float) -> None:
        kind: type[Machine[int]] = Bookings if world.now_s < upgrade_s else BookingsAgain
        self.store = process.store("bookings")
        self.machine = kind(self.store, clock=process.clock, settings=SETTINGS)
        self.requests: asyncio.Queue[Request] = asyncio.Queue(1000)
        self.without = without
        self._timers: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        await self.store.migrate("bookings", [Migration(1, "bookings", TABLES)])
        await self.machine.start(keep_time=self.without != "deadline-row")
        if self.without:
            await self._weaken()
        while True:
            batch = [await self.requests.get()]
            while not self.requests.empty():
                batch.append(self.requests.get_nowait())
            await self._serve(batch)

    async def _serve(self, batch: Sequence[Request]) -> None:
        straight: list[tuple[Request, Fire[int]]] = []
        try:
            for request in batch:
                if isinstance(request.what, int):
                    await self._book(request.what)
                    self._reply(request, None)
                elif request.looks_first:
                    self._reply(request, await self._look_and_fire(request.what))
                else:
                    straight.append((request, request.what))
            answers = await self.machine.fire_many([fire for _, fire in straight])
            for (request, _), answer in zip(straight, answers, strict=True):
                self._reply(request, answer)
        except Error as error:
            for request in batch:
                self._reply(request, error)

    async def _book(self, booking: int) -> None:
        """Make a booking; again it changes nothing."""

        async def unit(tx: Tx) -> None:
            if await tx.fetch_one("SELECT 1 FROM bookings WHERE id = ?", (booking,)) is None:
                await tx.execute(
                    "INSERT INTO bookings (id, state, state_version, definition, due_us) VALUES (?, ?, ?, ?, ?)",
                    (booking, *self._initial()),
                )
                await tx.execute("UPDATE seats SET free = free - 1, held = held + 1")

        await self.store.write(unit)
        self._remind(booking, ("held", 0))

    async def _look_and_fire(self, fire: Fire[int]) -> Answer:
        """Read, think, then fire at what was read: the compare-and-set says whether it still stands there."""
        seen = (await self.machine.find([fire.instance])).get(fire.instance)
        expecting = (seen.state, seen.version) if seen is not None else None
        await asyncio.sleep(0.05)
        (answer,) = await self.machine.fire_many([fire], expecting=expecting)
        return answer

    def _reply(self, request: Request, answer: Answer) -> None:
        if isinstance(answer, Transition):
            self._remind(answer.instance, (answer.target, answer.version))
        if not request.answer.done():
            request.answer.set_result(answer)

    # What takes a safeguard away

    async def _weaken(self) -> None:
        firing = self.machine._firing
        if self.without == "compare-and-set":
            firing.rows.__class__ = _AnyRow
            await self._drop("dougong_transitions_versions")
        elif self.without == "event-id":
            firing.history.__class__ = _Forgetful
            await self._drop("dougong_transitions_event_ids")
        elif self.without == "deadline-row":
            firing.rows.__class__ = _Untimed

    async def _drop(self, index: str) -> None:
        await self.store.write(lambda tx: tx.execute(f"DROP INDEX IF EXISTS {index}"))

    def _initial(self) -> tuple[str, int, int, int | None]:
        state, version, definition, due_us = self.machine.initial()
        return state, version, definition, None if self.without == "deadline-row" else due_us

    def _remind(self, booking: int, standing: tuple[str, int]) -> None:
        """Without rows for deadlines they are kept as most would: as tasks that sleep."""
        deadline = self.machine.declaration.table.deadlines.get(standing[0])
        if self.without != "deadline-row" or deadline is None:
            return

        async def later() -> None:
            await asyncio.sleep(deadline[0] / 1e6)
            while True:
                try:
                    await self.machine.fire_many([Fire(booking, deadline[1])], expecting=standing)
                    return
                except Unavailable:
                    await asyncio.sleep(1.0)

        task = asyncio.create_task(later())
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)


class _AnyRow(Rows[int]):
    """Moves a row wherever it stands."""

    _compare = "(state = ? AND state_version = ? AND definition = ?) IS NOT NULL"


class _Untimed(Rows[int]):
    """Writes no deadline."""

    async def move(
        self,
        tx: Tx,
        keys: Sequence[int],
        expected: tuple[str, int, int],
        target: str,
        due_us: int | None,
        now_us: int,
    ) -> int:
        return await super().move(tx, keys, expected, target, None, now_us)


class _Forgetful(HistoryTable[int]):
    """Keeps event ids and never looks them up."""

    async def find(self, tx: Tx, ids: Sequence[str]) -> dict[tuple[int, str], Transition[int]]:
        return {}


class Clients:
    """Customers: each has a plan for its booking, sends events until they are answered, some twice and some late."""

    def __init__(self, world: World, workers: dict[str, Worker]) -> None:
        self._world = world
        self._workers = workers
        self._faults = world.faults.source("events", "events")
        self._copies: list[asyncio.Task[None]] = []

    async def customer(self, booking: int) -> None:
        draw = self._world.stream(f"customer {booking}")
        await asyncio.sleep(draw.random() * CALM_S)
        await self._book(booking)
        plan = [("pay", draw.choice((1.0, 5.0, 15.0, 18.0, 19.0, 20.0, 21.0)))]
        plan += [
            (draw.choice(("check", "recheck", "check", "close", "pay")), draw.random() * 15)
            for _ in range(draw.randrange(7))
        ]
        for number, (event, wait_s) in enumerate(plan):
            await asyncio.sleep(wait_s * (0.9 + 0.2 * draw.random()))
            await self._send(Fire(booking, event, id=f"{booking}/{number}"), looks_first=draw.random() < 0.5)

    async def settled(self) -> None:
        """Wait for copies still under way."""
        for copy in self._copies:
            await copy

    async def _book(self, booking: int) -> None:
        call = self._world.history.invoke(f"customer {booking}", "book", booking)
        while True:
            answered, answer = await self._deliver(booking, looks_first=False)
            if answered and answer is None:
                self._world.history.ok(call, True)
                return
            await asyncio.sleep(0.5)

    async def _send(self, fire: Fire[int], *, looks_first: bool) -> None:
        """Until it is answered; what a later attempt may be answered otherwise (a full disk) is sent again."""
        call = self._world.history.invoke(f"customer {fire.instance}", fire.event, fire.id)
        while True:
            answer = await self._ask(fire, looks_first=looks_first)
            if isinstance(answer, Transition):
                self._world.history.ok(call, (answer.version, answer.source, answer.target))
                return
            if answer is not None and not isinstance(answer, Unavailable) and answer.code != "instance_moved":
                self._world.history.unknown(call, answer.code)  # a copy of it may still come, and be legal by then
                return
            await asyncio.sleep(0.5)

    async def _ask(self, fire: Fire[int], *, looks_first: bool) -> Answer:
        """One attempt; None when no answer came."""
        struck = self._faults.strike(((0.08, "answer lost"), (0.1, "sent twice"), (0.08, "late")), fire.id or "")
        what, how = struck if struck is not None else ("", 0.0)
        if what == "sent twice":
            self._copies.append(self._world.spawn(self._copy(fire, how * 60.0, looks_first=looks_first)))
        if what == "late":
            self._copies.append(self._world.spawn(self._copy(fire, PATIENCE_S + how * 60.0, looks_first=looks_first)))
            await asyncio.sleep(PATIENCE_S)
            return None
        _, answer = await self._deliver(fire, looks_first=looks_first)
        return None if what == "answer lost" else answer

    async def _copy(self, fire: Fire[int], delay_s: float, *, looks_first: bool) -> None:
        await asyncio.sleep(delay_s)
        await self._deliver(fire, looks_first=looks_first)

    async def _deliver(self, what: int | Fire[int], *, looks_first: bool) -> tuple[bool, Answer]:
        """Hand something to one of the workers, which may be dead: whether it answered, and what."""
        await asyncio.sleep(self._world.random.random() * 0.2)
        worker = self._workers[self._world.random.choice(sorted(self._workers))]
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        worker.requests.put_nowait(Request(what, looks_first, answer))
        await asyncio.wait([answer], timeout=PATIENCE_S)
        return (True, answer.result()) if answer.done() else (False, None)


async def tell(world: World, without: str) -> Sequence[str]:
    """Workers come and go; customers do what they do; in the end every booking is closed or expired, and rightly so."""
    workers: dict[str, Worker] = {}
    draw = world.stream("upgrade")
    upgrade_s = draw.choice((0.0, draw.random() * CALM_S, draw.random() * CALM_S, CALM_S * 2))

    async def serve(process: Process) -> None:
        worker = workers[process.name] = Worker(world, process, without, upgrade_s)
        await worker.work()

    nodes = [world.node(f"worker-{n}") for n in range(3)]
    for node in nodes:
        node.start(serve)

    async def upgrade() -> None:
        """One after the other is replaced, as in a rolling update."""
        await asyncio.sleep(upgrade_s)
        for node in nodes:
            await asyncio.sleep(draw.random() * 15)
            if node.up:
                node.crash()
                await asyncio.sleep(0.5)
            if not node.up:
                node.restart()

    clients = Clients(world, workers)
    rolling = world.spawn(upgrade())
    await asyncio.gather(*(world.spawn(clients.customer(booking)) for booking in range(1, BOOKINGS + 1)))
    await rolling
    await clients.settled()
    world.heal()
    for _ in range(int(QUIET_S / 5)):
        await asyncio.sleep(5)
        if not world.database("bookings").rows("SELECT 1 FROM bookings WHERE state NOT IN ('closed', 'expired')"):
            break
    return _judge(world)


def _judge(world: World) -> list[str]:
    database = world.database("bookings")
    rows = cast(
        "list[tuple[int, str, int]]", database.rows("SELECT id, state, state_version FROM bookings ORDER BY id")
    )
    made = cast(
        "list[tuple[str, int, str, str, str, str | None]]",
        database.rows(
            "SELECT instance, version, source, event, target, event_id FROM dougong_transitions ORDER BY seq"
        ),
    )
    ((free, held, sold),) = database.rows("SELECT free, held, sold FROM seats")
    seats = {"free": int(free), "held": int(held), "sold": int(sold)}  # type: ignore[arg-type]
    found = conserved("seats", BOOKINGS, seats)
    if seats["held"]:
        found.append(f"seats: {seats['held']} are still held")
    found += _paths(rows, made)
    found += one_outcome("event", ((id_, (key, version)) for key, version, *_, id_ in made if id_ is not None))
    by_id = {id_: (version, source, target) for _, version, source, _, target, id_ in made if id_ is not None}
    acknowledged = [call for call in world.history.calls if call.what != "book" and call.outcome is Outcome.OK]
    found += durable("event", acknowledged, lambda call: _kept(call, by_id))
    booked = {row[0] for row in rows}
    found += [f"booking {n} was acknowledged and is not there" for n in range(1, BOOKINGS + 1) if n not in booked]
    return found


def _kept(call: Call, by_id: Mapping[str, Plain]) -> Plain:
    return by_id.get(str(call.key))


def _paths(rows: Sequence[tuple[int, str, int]], made: Sequence[tuple[Any, ...]]) -> list[str]:
    """Every booking went a legal way without gaps, ended, and stands where its way led."""
    found: list[str] = []
    stands = {id_: ("held", 0) for id_, _, _ in rows}
    for key, version, source, event, target, _ in made:
        state, last = stands[int(key)]
        if (source, version) != (state, last + 1):
            found.append(f"booking {key}: version {version} from {source} after version {last}, {state}")
        if (source, event, target) not in STEPS:
            found.append(f"booking {key}: {event} led from {source} to {target}")
        stands[int(key)] = (target, version)
    for id_, state, version in rows:
        if stands[id_] != (state, version):
            found.append(f"booking {id_} is {state}, version {version}; its history ends with {stands[id_]}")
        if state not in ("closed", "expired"):
            found.append(f"booking {id_} is {state} for ever: no deadline ended it")
    return found


story = Story(
    name="statemachine",
    title="Bookings with deadlines: events twice and late, timeouts racing payments, a new definition in mid-flight.",
    tell=tell,
    chaos=Chaos(
        crash_every_s=60.0,
        down_s=3.0,
        write_s=0.1,
        write_slow=0.01,
        disk_full=0.01,
        disk_locked=0.01,
        disk_gone_every_s=200.0,
        clock_skew_s=2.0,
        clock_drift=0.001,
        clock_jump_every_s=150.0,
        clock_jump_s=40.0,
    ),
    safeguards={
        "compare-and-set": "the UPDATE takes only a row that stands where it was read",
        "event-id": "an event id that was seen before gives the recorded outcome",
        "deadline-row": "deadlines are rows, not sleeping tasks",
    },
)
