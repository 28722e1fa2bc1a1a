"""Fulfilment's two loops against orders that repeat themselves, fail, and are cancelled in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest_asyncio

from dougong.clock import SystemClock
from dougong.contract import BoundBatched
from dougong.errors import Error, NotFound, Unavailable
from dougong.jobs import Backoff, Filter, Jobs, MemoryQueue, SqlQueue, State, Worker, job
from dougong.store import Store, migrations_from, open_store
from shop.fulfilment import FulfilmentSettings, Stalls
from shop.fulfilment import _warehouse as warehouse
from shop.fulfilment._notices import notices, notify
from shop.fulfilment._work import follow_orders, move_shipments
from shop.orders import Advance, Advanced, FollowOrders, OrderEvent, OrderEvents, Orders, OrderState

S = OrderState
_NONE = Stalls()
QUICK = FulfilmentSettings(stage_ms=0, batch=4, tick_ms=0)


class FakeOrders:
    """The two methods fulfilment calls."""

    def __init__(self) -> None:
        self.events: list[OrderEvent] = []
        self.states: dict[int, OrderState] = {}
        self.reports: list[tuple[int, OrderState]] = []
        self.asked: list[int] = []
        self.failures = 0
        self.deaf = False
        """Hands out everything from the start, whatever it is asked for."""
        self.advance = BoundBatched(self._advance)

    def happened(self, order_id: int, state: OrderState) -> None:
        self.events.append(OrderEvent(seq=len(self.events) + 1, order_id=order_id, state=state))
        self.states[order_id] = state

    async def follow(self, request: FollowOrders) -> OrderEvents:
        await asyncio.sleep(0)
        self._fail()
        self.asked.append(request.after)
        after = 0 if self.deaf else request.after
        items = [event for event in self.events if event.seq > after][: request.limit]
        return OrderEvents(items=items, position=items[-1].seq if items else request.after)

    async def _advance(self, requests: Sequence[Advance]) -> Sequence[Advanced | Error]:
        await asyncio.sleep(0)
        self._fail()
        answers: list[Advanced | Error] = []
        for request in requests:
            self.reports.append((request.order_id, request.state))
            known = self.states.get(request.order_id)
            if known is None:
                answers.append(NotFound("there is no such order", code="unknown_order"))
                continue
            if known not in (S.CANCELLING, S.CANCELLED):
                self.states[request.order_id] = request.state
            answers.append(Advanced(state=self.states[request.order_id]))
        return answers

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("orders is away", code="connect_failed")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await open_store(f"sqlite:///{tmp_path / 'fulfilment.db'}", name="fulfilment")
    await made.migrate("fulfilment", migrations_from("shop.fulfilment.migrations"))
    yield made
    await made.close()


@asynccontextmanager
async def working(
    store: Store, orders: FakeOrders, *, instances: int = 1, stalls: Stalls = _NONE
) -> AsyncGenerator[None]:
    clock, fake, settings = SystemClock(), cast(Orders, orders), msgspec.structs.replace(QUICK, stalls=stalls)
    queue = SqlQueue(store, clock)
    await queue.start()
    loops = [
        loop(store, clock, fake, Jobs(queue), settings)
        for loop in (follow_orders, move_shipments)
        for _ in range(instances)
    ]
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield
        assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await queue.close()


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """The deadline only ends a test that would never end."""
    async with asyncio.timeout(60):
        while not await check():
            await asyncio.sleep(0.002)


async def shipments(store: Store) -> dict[object, object]:
    return dict(await store.fetch_all("SELECT order_id, state FROM shipments"))  # type: ignore[arg-type]


def all_are(store: Store, state: OrderState, count: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        found = await shipments(store)
        return len(found) == count and set(found.values()) == {state.value}

    return check


async def test_confirmed_orders_go_through_every_state_to_the_customer(store: Store) -> None:
    orders = FakeOrders()
    for order_id in range(2, 24, 2):
        orders.happened(order_id, S.CONFIRMED)
    async with working(store, orders):
        await until(all_are(store, S.DELIVERED, 11))
    assert set(orders.states.values()) == {S.DELIVERED}
    assert [state for order_id, state in orders.reports if order_id == 2] == [S.PICKING, S.SHIPPED, S.DELIVERED]


async def test_repeated_events_and_several_instances_change_nothing(store: Store) -> None:
    orders = FakeOrders()
    orders.deaf = True
    for order_id in (2, 4, 6):
        orders.happened(order_id, S.CONFIRMED)
    async with working(store, orders, instances=2):
        await until(all_are(store, S.DELIVERED, 3))
        seen = len(orders.asked)
        await until(lambda: _true(len(orders.asked) > seen + 10))
    assert await shipments(store) == {2: "delivered", 4: "delivered", 6: "delivered"}


async def test_the_position_never_goes_back(store: Store) -> None:
    """Of two instances the slower one stores an older page last."""
    new = [OrderEvent(seq=n, order_id=2 * n, state=S.CONFIRMED) for n in (1, 2, 3)]
    await store.write(lambda tx: warehouse.take_in(tx, OrderEvents(items=new, position=5), 1))
    await store.write(lambda tx: warehouse.take_in(tx, OrderEvents(items=new[:1], position=1), 1))
    assert await store.read(warehouse.position) == 5


async def test_a_cancelled_order_goes_nowhere(store: Store) -> None:
    orders = FakeOrders()
    orders.happened(2, S.CONFIRMED)
    orders.happened(4, S.CONFIRMED)
    orders.happened(2, S.CANCELLED)
    async with working(store, orders):
        await until(lambda: _delivered(store, 4))
    assert await shipments(store) == {2: "cancelled", 4: "delivered"}
    assert orders.states[2] is S.CANCELLED


async def test_an_order_that_orders_does_not_know_is_let_go(store: Store) -> None:
    orders = FakeOrders()
    orders.happened(2, S.CONFIRMED)
    del orders.states[2]
    async with working(store, orders):
        await until(all_are(store, S.CANCELLED, 1))


async def test_an_order_whose_cancellation_is_refused_is_delivered_after_all(store: Store) -> None:
    orders = FakeOrders()
    orders.happened(2, S.CONFIRMED)
    orders.states[2] = S.CANCELLING
    async with working(store, orders):
        await until(lambda: _true((2, S.PICKING) in orders.reports[1:]))
        orders.states[2] = S.CONFIRMED  # a participant was away, so the order stands
        await until(all_are(store, S.DELIVERED, 1))
    assert orders.states[2] is S.DELIVERED


async def test_an_order_confirmed_again_is_picked_by_somebody_else(store: Store) -> None:
    orders = FakeOrders()
    for order_id in (2, 4):
        orders.happened(order_id, S.CONFIRMED)
    async with working(store, orders, stalls=Stalls(picker_dies_every=2)):
        await until(lambda: _delivered(store, 2))
        await until(lambda: _true((4, S.PICKING) in orders.reports))
        assert (await shipments(store))[4] == "picking"
        orders.happened(4, S.CONFIRMED)  # its deadline in picking
        await until(lambda: _delivered(store, 4))
    assert [state for order_id, state in orders.reports if order_id == 4][-3:] == [S.PICKING, S.SHIPPED, S.DELIVERED]


async def test_a_courier_who_is_asked_says_what_he_knows(store: Store) -> None:
    orders = FakeOrders()
    for order_id in (2, 4, 6):
        orders.happened(order_id, S.CONFIRMED)
    silent, lost = 2, 4  # by the offsets of Stalls
    async with working(store, orders, stalls=Stalls(courier_silent_every=2, parcel_lost_every=4)):
        await until(lambda: _true({(id_, S.SHIPPED) for id_ in (2, 4, 6)} <= set(orders.reports)))
        for order_id in (silent, lost):
            orders.happened(order_id, S.TRACING)
        await until(lambda: _delivered(store, silent))
        orders.happened(lost, S.LOST)
        await until(lambda: _in(store, lost, "lost"))
    assert (lost, S.DELIVERED) not in orders.reports


async def test_orders_away_for_long_is_waited_for(store: Store) -> None:
    orders = FakeOrders()
    orders.happened(2, S.CONFIRMED)
    orders.failures = 3000
    async with working(store, orders):  # the pause grows from nothing, so it stays nothing
        await until(all_are(store, S.DELIVERED, 1))


async def _true(value: bool) -> bool:
    return value


async def _delivered(store: Store, order_id: int) -> bool:
    return (await shipments(store)).get(order_id) == "delivered"


async def _in(store: Store, order_id: int, state: str) -> bool:
    return (await shipments(store)).get(order_id) == state


async def test_each_change_that_customers_want_to_hear_of_has_one_notice(store: Store) -> None:
    orders = FakeOrders()
    orders.deaf = True  # all events come again and again, to both instances
    for order_id, state in ((2, S.CONFIRMED), (4, S.CANCELLED), (6, S.TRACING), (8, S.LOST)):
        orders.happened(order_id, state)
    async with working(store, orders, instances=2):

        async def over() -> bool:
            return len(orders.asked) >= 6 and (await shipments(store)).get(2) == S.DELIVERED

        await until(over)
    rows = await store.fetch_all("SELECT payload FROM dougong_jobs")
    told = [one for row in rows for one in msgspec.json.decode(row[0])["notices"]]  # type: ignore[arg-type]
    assert sorted((one["order_id"], one["state"]) for one in told) == [(2, "shipped"), (4, "cancelled"), (8, "lost")]


async def test_notices_are_sent_together_and_who_is_missed_is_tried_alone() -> None:
    sent: list[tuple[str, str]] = []

    class Post:
        async def send(self, key: str, order_id: int, text: str) -> None:
            if order_id == 4 and ("4-shipped", "lost") not in sent:
                sent.append((key, "lost"))
                raise Unavailable("no stamps", code="no_stamps")
            sent.append((key, text))

    jobs = Jobs(MemoryQueue())

    async def provide(kind: type) -> object:
        return jobs if kind is Jobs else Post()

    impatient = job(name="notify", backoff=Backoff(first_s=0.01))(notify.function)
    worker = Worker(jobs.queue, [impatient], provide=provide)
    task = asyncio.create_task(worker.run())
    (call,) = notices([(2, S.SHIPPED), (4, S.SHIPPED), (5, S.PICKING), (6, S.LOST)])
    enqueued = await jobs.enqueue(call, queue="default")
    ended = await jobs.wait(enqueued.id, 60)
    way, lost = "your order is on its way", "your parcel was lost; its price is given back"
    assert (ended.state, ended.attempts) == (State.DONE, 1)
    assert sent == [("2-shipped", way), ("4-shipped", "lost"), ("6-lost", lost)]
    (alone,) = await jobs.queue.page(Filter(queue="notices"))
    assert msgspec.json.decode(alone.payload)["notices"] == [{"order_id": 4, "state": "shipped"}]
    again = await jobs.enqueue(notices([(4, S.SHIPPED)])[0], queue="default")
    assert (await jobs.wait(again.id, 60)).state is State.DONE
    assert sent[-1] == ("4-shipped", way)
    worker.stop()
    await task
