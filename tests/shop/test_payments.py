"""Orders paid at a provider that is as bad as real ones are on their worst days: at the end both sides agree."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import hmac
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from tests.shop.till import STOCK, Counter, Gate, counter, gates, order, outcome, shop_stores

from dougong.clock import SystemClock
from dougong.config import Secret
from dougong.errors import Conflict, Error, Invalid, NotFound, Unauthenticated
from dougong.http import HttpFront, HttpServer
from dougong.mesh import BreakerPolicy
from dougong.rpc import call_scope
from dougong.store import Store, Unit
from dougong.store.sqlite import SqliteStore
from dougong.tcc import CoordinatorSettings, RetrySchedule
from shop.inventory import StockHolds
from shop.orders import (
    Advance,
    CancelOrder,
    GetOrder,
    Order,
    OrdersSettings,
    OrderState,
    Payments,
    PlacedOrder,
    ReturnOrder,
    Webhook,
)
from shop.orders._provider import PaymentProvider
from shop.provider import Behaviour, Intent, Provider, Status, serving

S = OrderState
SECRET = "hush"
PRICE = 250
QUICK = CoordinatorSettings(
    breaker=BreakerPolicy(failures=1_000_000),
    scan_every_s=0.02,
    try_timeout_s=1.0,
    grace_s=0.0,
    drain_s=0.1,
    retry=RetrySchedule(base_s=0.01, cap_s=0.05, attempts=1000),
    retention_s=1e6,
)


class ShiftedClock(SystemClock):
    """The machine's clock, some time later."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return super().now_us() + int(self.ahead_s * 1e6)


@dataclass
class Stand:
    """A shop, its provider, and the web between them."""

    directory: Path
    inventory: Store
    users: Store
    gates: dict[str, Gate]
    provider: Provider
    http: aiohttp.ClientSession
    stack: AsyncExitStack
    clock: ShiftedClock

    async def open(self, *, at_work: bool = True, **settings: float) -> Counter:
        """A counter that the provider can reach."""
        port = await self._forward()
        of_orders = OrdersSettings(
            provider_url=self.provider.url,
            provider_key=Secret(self.provider.key),
            webhook_secret=Secret(SECRET),
            public_url=f"http://127.0.0.1:{port}",
            **{"retry_s": 0.05, **settings},  # type: ignore[arg-type]  # only numbers are set here
        )
        till = await self.stack.enter_async_context(
            counter(
                self.directory,
                self.inventory,
                self.gates,
                clock=self.clock,
                settings=QUICK,
                orders_settings=of_orders,
                at_work=at_work,
            )
        )
        self.serving = till
        return till

    async def _forward(self) -> int:
        """Webhooks go to the counter opened last, as they go to whatever process answers the port."""
        stand = self

        class Forward(Payments):
            """Whoever serves now."""

            def __init__(self) -> None:
                """Nothing of its own."""

            async def hear(self, request: Webhook) -> object:  # type: ignore[override]
                return await stand.serving.payments.hear(request)

        server = HttpServer(HttpFront([(Payments, Forward())]))
        port = await server.start()
        self.stack.push_async_callback(server.stop, 0.0)
        return port

    async def customer(self, pay_url: str, outcome: str = "pay") -> int:
        async with self.http.post(pay_url, data={"outcome": outcome}) as answer:
            return answer.status

    async def stock(self) -> tuple[object, ...]:
        """(available, frozen, sold)"""
        row = await self.inventory.fetch_one("SELECT available, frozen, sold FROM stock WHERE sku = 'bolt'")
        assert row is not None
        return row

    async def wallet(self) -> object:
        """(available, frozen, spent)"""
        return await self.users.fetch_one("SELECT available, frozen, spent FROM wallets WHERE user_id = 1")

    async def stock_is(self, *expected: int) -> None:
        await until(self.stock, lambda found: found == expected)

    def intent(self, order_id: str) -> Intent:
        (found,) = self.provider.intents.by_reference()[order_id]
        return found


@pytest_asyncio.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        inventory, users = await stack.enter_async_context(shop_stores(tmp_path))
        provider = await stack.enter_async_context(serving(Provider("key", SECRET)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        made = await gates(inventory, users)
        inner = await stack.enter_async_context(AsyncExitStack())
        yield Stand(tmp_path, inventory, users, made, provider, http, inner, ShiftedClock())


async def until(look: Callable[[], Awaitable[object]], enough: Callable[[object], bool]) -> None:
    """The deadline only ends a test that would never end."""
    last: object = None
    try:
        async with asyncio.timeout(60):
            while not enough(last := await look()):
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"still {last}") from None


async def placed(till: Counter, *, user: int = 1, quantity: int = 1, key: str = "") -> PlacedOrder:
    with call_scope(timeout_s=5):
        (answer,) = await till.place(order(user, quantity=quantity, key=key, external=True))
    assert isinstance(answer, PlacedOrder), answer
    assert answer.state is S.AWAITING_PAYMENT
    return answer


async def see(till: Counter, order_id: str, user: str = "1") -> Order:
    return await till.orders.get_order(GetOrder(order_id=order_id, user_id=user))


async def reaches(till: Counter, order_id: str, state: OrderState) -> Order:
    async def look() -> object:
        return (await see(till, order_id)).state

    await until(look, lambda found: found is state)
    return await see(till, order_id)


async def cancel(till: Counter, order_id: str) -> Order:
    with call_scope(timeout_s=10):
        return await till.orders.cancel_order(CancelOrder(order_id=order_id, user_id="1"))


async def report(till: Counter, order_id: str, *states: OrderState) -> None:
    for state in states:
        await till.orders.advance.many([Advance(order_id=int(order_id), state=state)])


async def test_stock_is_held_until_it_is_paid(stand: Stand) -> None:
    till = await stand.open()
    bought = await placed(till, quantity=3)
    assert bought.pay_url.startswith(stand.provider.url)
    assert await stand.stock() == (STOCK - 3, 3, 0)
    assert (await see(till, bought.order_id)).pay_url == bought.pay_url
    await stand.customer(bought.pay_url)
    order_ = await reaches(till, bought.order_id, S.CONFIRMED)
    assert (order_.payment, order_.pay_url) == ("external", "")
    await stand.stock_is(STOCK - 3, 0, 3)
    assert await stand.users.fetch_one("SELECT frozen, spent FROM wallets WHERE user_id = 1") == (0, 0)
    page = await till.feed.after(0, 100, 0.0)
    assert [e.state for e in page.items] == [S.CONFIRMED]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(copies=5),
        Behaviour(reorder=True, copies=2),
        Behaviour(wrong_signatures=2),
        Behaviour(late_s=0.2),
        Behaviour(stale_s=3600.0),
        Behaviour(never=True),
    ],
    ids=str,
)
async def test_however_the_provider_tells_it_it_is_confirmed_once(stand: Stand, behaviour: Behaviour) -> None:
    till = await stand.open(ask_s=0.3)
    stand.provider.behaviour = behaviour
    bought = await placed(till)
    await stand.customer(bought.pay_url)
    await reaches(till, bought.order_id, S.CONFIRMED)
    stand.provider.behaviour = Behaviour()
    await stand.stock_is(STOCK - 1, 0, 1)
    history = await till.moves.payments.history.of(int(bought.order_id))
    assert [t.event for t in history if t.event == "paid"] == ["paid"]
    assert [t.event for t in await till.moves.orders.history.of(int(bought.order_id))] == ["held", "accepted"]


async def test_a_declined_payment_gives_the_stock_back(stand: Stand) -> None:
    till = await stand.open()
    bought = await placed(till)
    await stand.customer(bought.pay_url, "decline")
    order_ = await reaches(till, bought.order_id, S.CANCELLED)
    assert order_.refusal == "the payment was declined"
    await stand.stock_is(STOCK, 0, 0)


async def test_after_half_an_hour_the_stock_is_given_back_and_the_payment_voided(stand: Stand) -> None:
    till = await stand.open()
    bought = await placed(till)
    stand.clock.ahead_s += 1799
    await asyncio.sleep(0.1)  # scans go by
    assert (await see(till, bought.order_id)).state is S.AWAITING_PAYMENT
    stand.clock.ahead_s += 2
    order_ = await reaches(till, bought.order_id, S.CANCELLED)
    assert "not confirmed in time" in order_.refusal
    await stand.stock_is(STOCK, 0, 0)
    await until(_is(lambda: stand.intent(bought.order_id).status), lambda status: status is Status.VOIDED)
    assert await stand.customer(bought.pay_url) == 409, "nobody can pay it any more"


async def test_money_that_comes_too_late_is_given_back(stand: Stand) -> None:
    till = await stand.open(pay_within_s=0.2)
    stand.provider.behaviour = Behaviour(refuse=("void",))
    bought = await placed(till)
    await reaches(till, bought.order_id, S.CANCELLED)
    await stand.customer(bought.pay_url)
    await reaches(till, bought.order_id, S.REFUNDED)
    assert stand.intent(bought.order_id).refunded_minor == PRICE
    await stand.stock_is(STOCK, 0, 0)


async def test_money_is_found_even_if_no_webhook_ever_told_of_it(stand: Stand) -> None:
    """Paid in the last moment, and not heard of: voiding it says so."""
    till = await stand.open(pay_within_s=0.5, ask_s=1000)
    stand.provider.behaviour = Behaviour(never=True, refuse=("void",))
    bought = await placed(till)
    await stand.customer(bought.pay_url)
    await reaches(till, bought.order_id, S.CANCELLED)
    stand.provider.behaviour = Behaviour(never=True)
    await reaches(till, bought.order_id, S.REFUNDED)
    assert stand.intent(bought.order_id).refunded_minor == PRICE


async def test_with_the_provider_away_the_order_stands_and_gets_its_url_later(stand: Stand) -> None:
    till = await stand.open()
    stand.provider.behaviour = Behaviour(refuse=("create",))
    bought = await placed(till, key="k")
    assert bought.pay_url == ""
    stand.provider.behaviour = Behaviour()

    async def url() -> object:
        return (await see(till, bought.order_id)).pay_url

    await until(url, bool)
    with call_scope(timeout_s=5):
        (again,) = await till.place(order(key="k", external=True))
        (other,) = await till.place(order(key="k"))
    assert isinstance(again, PlacedOrder)
    assert (again.order_id, again.pay_url) == (bought.order_id, await url())
    assert outcome(other) == "idempotency_key_reused"


async def test_a_provider_that_hangs_does_not_hold_up_the_answer(stand: Stand) -> None:
    till = await stand.open(provider_timeout_s=60.0)
    stand.provider.behaviour = Behaviour(slow_s=600.0)
    with call_scope(timeout_s=0.7):
        (answer,) = await till.place(order(external=True))
    assert isinstance(answer, PlacedOrder)
    assert (answer.state, answer.pay_url) == (S.AWAITING_PAYMENT, "")


async def test_the_customer_cancels_before_paying(stand: Stand) -> None:
    till = await stand.open()
    bought = await placed(till)
    order_ = await cancel(till, bought.order_id)
    assert (order_.state, order_.refusal) == (S.CANCELLED, "cancelled by the customer")
    assert (await cancel(till, bought.order_id)).state is S.CANCELLED
    await stand.stock_is(STOCK, 0, 0)
    await until(_is(lambda: stand.intent(bought.order_id).status), lambda status: status is Status.VOIDED)


async def test_a_refund_is_tried_until_the_provider_makes_it(stand: Stand) -> None:
    till = await stand.open()
    bought = await placed(till, quantity=2)
    await stand.customer(bought.pay_url)
    await reaches(till, bought.order_id, S.CONFIRMED)
    stand.provider.behaviour = Behaviour(refuse=("refund",))
    assert (await cancel(till, bought.order_id)).state is S.REFUNDING
    await stand.stock_is(STOCK, 0, 0)

    async def tried() -> object:
        history = await till.moves.payments.history.of(int(bought.order_id))
        return [t.event for t in history].count("retry")

    await until(tried, lambda count: isinstance(count, int) and count >= 2)
    assert (await cancel(till, bought.order_id)).state is S.REFUNDING
    stand.provider.behaviour = Behaviour()
    assert (await reaches(till, bought.order_id, S.REFUNDED)).refusal == "cancelled by the customer"
    assert stand.intent(bought.order_id).refunded_minor == 2 * PRICE


@pytest.mark.parametrize("external", [False, True])
async def test_what_is_brought_back_is_paid_back(stand: Stand, external: bool) -> None:
    till = await stand.open()
    with call_scope(timeout_s=5):
        (bought,) = await till.place(order(external=external))
    assert isinstance(bought, PlacedOrder)
    back = ReturnOrder(order_id=bought.order_id)
    if external:
        await stand.customer(bought.pay_url)
        await reaches(till, bought.order_id, S.CONFIRMED)
    with pytest.raises(Conflict, match="only what was delivered"):
        await till.orders.return_order(back)
    await report(till, bought.order_id, S.PICKING, S.SHIPPED, S.DELIVERED)
    assert (await till.orders.return_order(back)).refusal == "returned by the customer"
    await reaches(till, bought.order_id, S.REFUNDED)
    assert (await till.orders.return_order(back)).state is S.REFUNDED
    await stand.stock_is(STOCK, 0, 0)
    await until(stand.wallet, lambda row: row == (1_000_000, 0, 0))
    assert not external or stand.intent(bought.order_id).refunded_minor == PRICE
    with pytest.raises(Conflict, match="can no longer be cancelled"):
        await cancel(till, bought.order_id)
    with pytest.raises(NotFound):
        await till.orders.return_order(ReturnOrder(order_id="999"))


@pytest.mark.parametrize("external", [False, True])
async def test_a_parcel_that_is_lost_is_paid_back_and_its_goods_stay_sold(stand: Stand, external: bool) -> None:
    till = await stand.open()
    with call_scope(timeout_s=5):
        (bought,) = await till.place(order(external=external))
    assert isinstance(bought, PlacedOrder)
    if external:
        await stand.customer(bought.pay_url)
        await reaches(till, bought.order_id, S.CONFIRMED)
    await report(till, bought.order_id, S.PICKING, S.SHIPPED)
    stand.clock.ahead_s += 7 * 86_400 + 1
    await reaches(till, bought.order_id, S.TRACING)
    stand.clock.ahead_s += 3 * 86_400 + 1
    assert (await reaches(till, bought.order_id, S.REFUNDED)).refusal == "the parcel was lost"
    await stand.stock_is(STOCK - 1, 0, 1)
    await until(stand.wallet, lambda row: row == (1_000_000, 0, 0))
    assert not external or stand.intent(bought.order_id).refunded_minor == PRICE


async def test_a_picker_who_is_gone_is_followed_by_another(stand: Stand) -> None:
    till = await stand.open()
    (bought,) = await till.place(order())
    assert isinstance(bought, PlacedOrder)
    stand.clock.ahead_s += 901  # nobody picks it
    await until(_events(till, bought.order_id), lambda events: events == ["accepted", "announce"])
    await report(till, bought.order_id, S.PICKING)
    stand.clock.ahead_s += 3601
    await until(_events(till, bought.order_id), lambda events: events == ["accepted", "announce", "pick", "repick"])
    await report(till, bought.order_id, S.PICKING, S.SHIPPED)
    page = await till.feed.after(0, 100, 0.0)
    assert [e.state for e in page.items] == [S.CONFIRMED] * 3
    assert (await see(till, bought.order_id)).state is S.SHIPPED


async def test_payment_cancellation_and_timeout_race_and_one_wins(stand: Stand) -> None:
    till = await stand.open(pay_within_s=0.15)
    many = [await placed(till) for _ in range(5)]

    async def pay_late(n: int, bought: PlacedOrder) -> None:
        await asyncio.sleep(0.02 * (n % 10))
        await stand.customer(bought.pay_url)

    async def cancel_late(n: int, bought: PlacedOrder) -> None:
        await asyncio.sleep(0.03 * (n % 7))
        try:
            await cancel(till, bought.order_id)
        except Conflict:
            pass  # it was too late for that

    with call_scope(timeout_s=30):
        many += [o for o in await till.place(*[order(external=True)] * 35) if isinstance(o, PlacedOrder)]
    assert len(many) == 40
    await asyncio.gather(
        *(pay_late(n, bought) for n, bought in enumerate(many)),
        *(cancel_late(n, bought) for n, bought in enumerate(many) if n % 2),
    )

    async def ended() -> object:
        states = {(await see(till, bought.order_id)).state for bought in many}
        payments = {row[0] for row in await till.store.fetch_all("SELECT DISTINCT state FROM payments")}
        return states <= {S.CONFIRMED, S.CANCELLED, S.REFUNDED}, payments <= {"paid", "voided", "refunded"}

    await until(ended, lambda both: both == (True, True))
    sold = 0
    for bought in many:
        state, intent = (await see(till, bought.order_id)).state, stand.intent(bought.order_id)
        kept = intent.amount_minor - intent.refunded_minor if intent.status is Status.PAID else 0
        assert kept == (PRICE if state is S.CONFIRMED else 0), (state, intent)
        sold += state is S.CONFIRMED
    await stand.stock_is(STOCK - sold, 0, sold)


async def test_another_process_goes_on_where_one_stopped(stand: Stand) -> None:
    """Nothing but the databases is carried over: unopened, unasked, unvoided and unrefunded payments are all found."""
    idle = await stand.open(at_work=False)
    stand.provider.behaviour = Behaviour(refuse=("create",))
    unopened = await placed(idle)
    stand.provider.behaviour = Behaviour(never=True)
    paid_unheard, unpaid = await placed(idle), await placed(idle)
    await stand.customer(paid_unheard.pay_url)
    stand.provider.behaviour = Behaviour()
    refundable = await placed(idle)
    await stand.customer(refundable.pay_url)
    await reaches(idle, refundable.order_id, S.CONFIRMED)
    assert (await cancel(idle, refundable.order_id)).state is S.REFUNDING
    assert (await cancel(idle, unpaid.order_id)).state is S.CANCELLED
    stand.clock.ahead_s += 121
    other = await stand.open()
    await reaches(other, paid_unheard.order_id, S.CONFIRMED)
    await reaches(other, refundable.order_id, S.REFUNDED)

    async def url() -> object:
        return (await see(other, unopened.order_id)).pay_url

    await until(url, bool)
    await until(_is(lambda: stand.intent(unpaid.order_id).status), lambda status: status is Status.VOIDED)


_counted = contextvars.ContextVar("counted", default=False)


class Fuse:
    """Ends the process at its `at`-th step of what it does for the customer: before a unit of orders is written, after
    it, or when the provider has answered and nobody knows yet. From then on nothing of it gets any further."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.blown = asyncio.Event()
        self._at = at
        self._steps = 0
        write, call = SqliteStore.write, PaymentProvider._call

        async def writing(store: SqliteStore, unit: Unit[object]) -> object:
            if store.name != "orders":
                return await write(store, unit)
            await self._step()
            written = await write(store, unit)
            await self._step()
            return written

        async def calling(provider: PaymentProvider, *args: object, **kwargs: object) -> object:
            answer: object = await call(provider, *args, **kwargs)  # type: ignore[arg-type]
            await self._step()
            return answer

        patch.setattr(SqliteStore, "write", writing)
        patch.setattr(PaymentProvider, "_call", calling)

    async def _step(self) -> None:
        self._steps += _counted.get()
        if self._steps == self._at:
            self.blown.set()
        if self.blown.is_set():
            await asyncio.Event().wait()


async def _buy(stand: Stand, till: Counter) -> None:
    """Three orders: one is paid, one is declined, one is paid and cancelled."""
    _counted.set(True)
    for n, (what, sorry) in enumerate((("pay", False), ("decline", False), ("pay", True))):
        with call_scope(timeout_s=60):
            (bought,) = await till.place(order(key=f"k{n}", external=True))
        assert isinstance(bought, PlacedOrder)
        await stand.customer(bought.pay_url, what)
        intent = stand.intent(bought.order_id)
        kind = "intent.paid" if what == "pay" else "intent.declined"
        told = event(bought.order_id, kind, id=intent.id, status=intent.status.value)
        await till.payments.hear(signed(stand, told.replace(b"evt_x", f"evt_{n}".encode())))
        if sorry:
            await cancel(till, bought.order_id)
            await till.desk._sides[1].round()


async def _buy_until_death(stand: Stand, till: Counter, patch: pytest.MonkeyPatch, at: int) -> bool:
    """Whether the process died."""
    fuse = Fuse(patch, at)
    buying, death = asyncio.create_task(_buy(stand, till)), asyncio.create_task(fuse.blown.wait())
    await asyncio.wait({buying, death}, return_when=asyncio.FIRST_COMPLETED)
    for task in (buying, death):
        task.cancel()
    (bought, _) = await asyncio.gather(buying, death, return_exceptions=True)
    assert bought is None or fuse.blown.is_set(), bought
    return fuse.blown.is_set()


async def test_whatever_step_a_process_dies_at_another_one_brings_it_to_its_end(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 200):
        directory = tmp_path / f"death-{at}"
        directory.mkdir()
        async with AsyncExitStack() as stack:
            inventory, users = await stack.enter_async_context(shop_stores(directory))
            provider = await stack.enter_async_context(serving(Provider("key", SECRET)))
            provider.behaviour = Behaviour(never=True)  # one word by hand, and then never again
            made = await gates(inventory, users)
            here = Stand(directory, inventory, users, made, provider, stand.http, stack, ShiftedClock())
            with monkeypatch.context() as patch:
                if not await _buy_until_death(here, await here.open(at_work=False), patch, at):
                    assert at > 30, "it was to die at many steps"
                    return
            here.clock.ahead_s += 20  # leases of the dead are over
            provider.behaviour = Behaviour()
            other = await here.open(ask_s=0.1)
            await until(functools.partial(_all_agree, here, other), lambda found: found is True)
    raise AssertionError("it never came to its end")


async def _all_agree(stand: Stand, till: Counter) -> object:
    """True, or what is not as it should be (yet)."""
    rows = await till.store.fetch_all("SELECT id, state FROM orders")
    states = [str(state) for _, state in rows]
    for id_, state in rows:
        intents = stand.provider.intents.by_reference().get(str(id_), [])
        paid = [i.amount_minor - i.refunded_minor for i in intents if i.status is Status.PAID]
        if len(intents) > 1 or sum(paid) != (PRICE if state == "confirmed" else 0):
            return f"order {id_!r} is {state!r}: {intents}"
        if state == "awaiting_payment" and (not intents or intents[0].status is not Status.OPEN):
            return f"order {id_!r} is {state!r}: {intents}"
    held, sold = states.count("awaiting_payment"), states.count("confirmed")
    stock = await stand.stock()
    if stock != (STOCK - held - sold, held, sold):
        return f"{states}: {stock}"
    return set(states) <= {"awaiting_payment", "confirmed", "cancelled", "refunded", "refused"} or states


async def test_without_a_provider_nothing_is_paid_elsewhere(stand: Stand, tmp_path: Path) -> None:
    async with counter(tmp_path, stand.inventory, stand.gates, settings=QUICK) as till:
        no, yes = await till.place(order(external=True), order())
    assert outcome(no) == "no_payment_provider"
    assert isinstance(no, Invalid)
    assert outcome(yes) == "placed"


async def test_stock_that_is_not_there_is_not_held(stand: Stand) -> None:
    till = await stand.open()
    stand.gates[StockHolds.service].down = True
    (away,) = await till.place(order(external=True, key="k"))
    stand.gates[StockHolds.service].down = False
    (none,) = await till.place(order(external=True, quantity=STOCK + 1))
    assert [outcome(away), outcome(none)] == ["participant_unavailable", "insufficient_stock"]
    await placed(till, key="k")


def event(order_id: str, kind: str = "intent.paid", **changes: object) -> bytes:
    intent = {"id": "pi_x", "reference": order_id, "status": "paid", "amount_minor": PRICE, "currency": "EUR"}
    return msgspec.json.encode({"id": "evt_x", "type": kind, "created_s": 1, "intent": {**intent, **changes}})


def signed(stand: Stand, body: bytes, *, secret: str = SECRET, age_s: int = 0) -> Webhook:
    at = int(stand.clock.now_us() / 1e6) - age_s
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return Webhook(signature=f"t={at},v1={digest}", body=body)


async def test_webhooks_that_are_wrong_change_nothing(stand: Stand) -> None:
    till = await stand.open(at_work=False)
    stand.provider.behaviour = Behaviour(refuse=("create",))
    order_id = (await placed(till)).order_id
    good = event(order_id)
    wrong: list[tuple[Webhook, type[Error], str]] = [
        (Webhook(body=good), Unauthenticated, "bad_signature"),
        (signed(stand, good, secret="guess"), Unauthenticated, "bad_signature"),
        (msgspec.structs.replace(signed(stand, good), body=good + b" "), Unauthenticated, "bad_signature"),
        (signed(stand, good, age_s=301), Unauthenticated, "stale_signature"),
        (signed(stand, b"{"), Invalid, "malformed_event"),
        (signed(stand, b"[" * 60_000), Invalid, "malformed_event"),
        (signed(stand, b"\xff"), Invalid, "malformed_event"),
        (signed(stand, b"{}"), Invalid, "malformed_event"),
        (signed(stand, good.replace(b"evt_x", b"e" * 129)), Invalid, "malformed_event"),
        (signed(stand, event("12345678")), NotFound, "unknown_order"),
        (signed(stand, event("1 OR 1=1")), NotFound, "unknown_order"),
        (signed(stand, event("9" * 30)), NotFound, "unknown_order"),
        (signed(stand, event(order_id, amount_minor=1)), Conflict, "amount_mismatch"),
        (signed(stand, event(order_id, currency="JPY")), Conflict, "amount_mismatch"),
    ]
    for webhook, kind, code in wrong:
        with pytest.raises(kind) as refused:
            await till.payments.hear(webhook)
        assert refused.value.code == code
    assert (await till.payments.hear(signed(stand, event(order_id, "intent.invented")))).outcome == "nothing_new"
    assert (await see(till, order_id)).state is S.AWAITING_PAYMENT
    assert (await till.payments.hear(signed(stand, good))).outcome == "done"
    assert (await till.payments.hear(signed(stand, good))).outcome == "nothing_new"
    assert (await till.payments.hear(signed(stand, event(order_id, "intent.declined")))).outcome == "nothing_new"
    assert (await see(till, order_id)).state is S.CONFIRMED
    with pytest.raises(Conflict) as refused:
        await till.payments.hear(signed(stand, event(order_id, id="pi_y")))
    assert refused.value.code == "intent_mismatch"


async def test_a_webhook_is_refused_by_size_before_it_is_read(stand: Stand) -> None:
    await stand.open(at_work=False)
    (url,) = {f"http://127.0.0.1:{port}/v1/payments/webhook" for port in [await stand._forward()]}
    headers = {"Content-Type": "application/json", "Webhook-Signature": "t=1,v1=00"}
    for size, status in ((65_537, 400), (2 << 20, 413), (10, 401)):
        async with stand.http.post(url, data=io.BytesIO(b"x" * size), headers=headers) as answer:
            assert answer.status == status
    async with stand.http.post(url, data=b"x", headers={**headers, "Webhook-Signature": "x" * 600}) as answer:
        assert answer.status == 400
    async with stand.http.post(url, data=b"x", headers={**headers, "Content-Type": "text/plain"}) as answer:
        assert answer.status == 415


def _is(look: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def asked() -> object:
        return look()

    return asked


def _events(till: Counter, order_id: str) -> Callable[[], Awaitable[object]]:
    async def look() -> object:
        return [t.event for t in await till.moves.orders.history.of(int(order_id))]

    return look
