"""Placing, reading and cancelling orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from dougong.clock import Clock
from dougong.contract import Service, batched, rpc
from dougong.errors import Conflict, Error, Internal, Invalid, NotFound, Unavailable
from dougong.rpc import remaining_s
from dougong.shard import parse_id
from dougong.statemachine import Fire
from dougong.store import IdBlocks, Row, Store, Tx
from dougong.tcc import Coordinator, NewTransaction, Outcome, TransactionState
from dougong.telemetry import get_logger
from shop.inventory import Reserve, StockHolds
from shop.orders import _ledger as ledger
from shop.orders._contract import (
    Advance,
    Advanced,
    CancelOrder,
    FollowOrders,
    GetOrder,
    ListOrders,
    Order,
    OrderChanges,
    OrderEvents,
    OrderPage,
    OrderState,
    PaymentMethod,
    PlacedOrder,
    PlaceOrder,
    ReturnOrder,
    WatchOrders,
)
from shop.orders._desk import Desk
from shop.orders._feed import Feed
from shop.orders._moves import Moves
from shop.orders._prices import Price, Prices
from shop.orders._settings import OrdersSettings
from shop.orders._till import Till
from shop.orders._undoing import NOT_SETTLED, Undoing
from shop.users import Charge, WalletHolds

__all__ = ["Orders"]

_PATIENCE_S = 1.0
"""How long a batch waits for what other requests with its keys are doing: its other orders wait with it."""
_KEY_RACES_MAX = 10
_ANSWER_S = 0.5
"""Kept of a call's time to answer in, whatever the payment provider does."""

_Outcomes = list[PlacedOrder | Error | None]
_Placing = Callable[[Sequence[ledger.NewOrder]], Awaitable[list[PlacedOrder | Error]]]

_CANCELLED = (OrderState.CANCELLING, OrderState.CANCELLED, OrderState.REFUNDING, OrderState.REFUNDED)
_NOT_CANCELLED = ("returned", "lost")
"""Other reasons why money goes back."""

_encode = msgspec.json.encode
log = get_logger(__name__)


class Orders(Service, package="shop.v1"):
    """Orders: stock and money are taken together or not at all, and an accepted order survives any crash."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: IdBlocks,
        transactions: Coordinator,
        prices: Prices,
        feed: Feed,
        moves: Moves,
        till: Till,
        undoing: Undoing,
        desk: Desk,
        settings: OrdersSettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._transactions = transactions
        self._prices = prices
        self._feed = feed
        self._moves = moves
        self._till = till
        self._undoing = undoing
        self._desk = desk
        self._settings = settings
        self._keys: dict[tuple[int, str], asyncio.Future[None]] = {}
        """Idempotency keys being placed by this process right now."""

    @batched(http="POST /v1/orders", max_batch=1000, timeout_s=5.0, on_behalf=("partner",))
    async def place(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
        """Take stock and money for an order. The answer comes when both are taken durably, or says why not.

        Paid externally, the answer comes when the stock is held, and names the place to pay; the hold ends after 30
        minutes.
        """
        outcomes: _Outcomes = [None] * len(requests)
        prices = await self._prices.get_many({line.sku for request in requests for line in request.lines})
        fresh: dict[int, ledger.NewOrder] = {}
        unpaid: dict[int, ledger.NewOrder] = {}
        repeats: list[int] = []
        mine: dict[tuple[int, str], asyncio.Future[None]] = {}
        numbers = await self._ids.take(len(requests))
        for i, (request, number) in enumerate(zip(requests, numbers, strict=True)):
            order = _price(request, prices, number)
            if not isinstance(order, Error) and request.payment is PaymentMethod.EXTERNAL:
                order = self._externally(order)
            if isinstance(order, Error):
                outcomes[i] = order
                continue
            new = fresh if order.payment is PaymentMethod.WALLET else unpaid
            if order.key is None:
                new[i] = order
            elif (place := (order.user_id, order.key)) in self._keys:
                repeats.append(i)
            else:
                mine[place] = self._keys[place] = asyncio.get_running_loop().create_future()
                new[i] = order
        try:
            await self._place_fresh(fresh, repeats, outcomes, self._place)
            if unpaid:
                await self._place_fresh(unpaid, repeats, outcomes, self._hold)
        finally:
            for place, done in mine.items():
                del self._keys[place]
                done.set_result(None)
        until = asyncio.get_running_loop().time() + min(_PATIENCE_S, (remaining_s() or 0.0) - 0.1)
        for i in repeats:
            outcomes[i] = await self._repeated(requests[i], until)
        return [outcome for outcome in outcomes if outcome is not None]

    @rpc(http="GET /v1/orders/{order_id}")
    async def get_order(self, request: GetOrder) -> Order:
        """One of the caller's orders."""
        return ledger.to_order(await self._find(request.order_id, request.user_id))

    @rpc(http="GET /v1/orders")
    async def list_orders(self, request: ListOrders) -> OrderPage:
        """The caller's orders, newest first, a page at a time."""
        before = int(request.before) if request.before else (1 << 63) - 1
        user_id = _number(request.user_id)
        rows = await self._store.read(lambda tx: ledger.list_before(tx, user_id, before, request.limit))
        items = [ledger.to_order(row) for row in rows]
        return OrderPage(items=items, next=items[-1].order_id if len(items) == request.limit else "")

    @rpc(http="POST /v1/orders/{order_id}/cancel", timeout_s=5.0)
    async def cancel_order(self, request: CancelOrder) -> Order:
        """Cancel an order that has not shipped. Its stock and money go back, whatever happens after this answer."""
        order, reason = await self._unless_cancelling(request)
        while order.state is OrderState.AWAITING_PAYMENT:
            await self._transactions.cancel([int(order.order_id)], message="cancelled by the customer")
            order, reason = await self._unless_cancelling(request)  # which may have been paid in this moment
        if order.state in _CANCELLED and reason not in _NOT_CANCELLED:
            self._desk.wake()
            return order
        await self._settled(int(order.order_id))
        await self._undoing.cancel(order)
        self._desk.wake()
        return await self.get_order(GetOrder(order_id=request.order_id, user_id=request.user_id))

    @rpc(http="POST /v1/orders/{order_id}/return", roles=("operator",))
    async def return_order(self, request: ReturnOrder) -> Order:
        """The customer has brought a delivered order back. Stock and money go back."""
        order_id = int(request.order_id)

        async def unit(tx: Tx) -> Row | None:
            (outcome,) = await self._moves.orders.fire(tx, [Fire(order_id, "return")])
            if not isinstance(outcome, Error):
                await ledger.note_reason(tx, order_id, "returned", "returned by the customer")
            return await ledger.find_any(tx, order_id)

        row = await self._store.write(unit)
        if row is None or row[2] == OrderState.PLACING.value:
            raise NotFound(f"there is no order {order_id}", code="unknown_order", order_id=request.order_id)
        order = ledger.to_order(row)
        if row[8] != "returned":
            raise Conflict(
                f"order {order_id} is {order.state}; only what was delivered comes back",
                code="order_not_returnable",
                state=order.state.value,
            )
        self._feed.wake()
        self._desk.wake()
        return order

    @rpc(internal=True, timeout_s=35.0)
    async def follow(self, request: FollowOrders) -> OrderEvents:
        """What became of orders, for a follower that stores `after` with its own effects. Numbers at or below `after`
        are forgotten."""
        return await self._feed.after(request.after, request.limit, request.wait_ms / 1000)

    @rpc(internal=True, idempotent=True, timeout_s=35.0)
    async def watch(self, request: WatchOrders) -> OrderChanges:
        """Every change that a customer may see, for screens. A watcher keeps nothing from being forgotten."""
        return await self._feed.watch(self._store, request.after, request.limit, request.wait_ms / 1000)

    @batched(internal=True, idempotent=True, max_batch=5000, timeout_s=10.0)
    async def advance(self, requests: Sequence[Advance]) -> Sequence[Advanced | Error]:
        """Fulfilment's reports; late and repeated ones change nothing."""

        async def unit(tx: Tx) -> dict[int, OrderState]:
            return await self._moves.advance(tx, [(r.order_id, r.state) for r in requests])

        states = await self._store.write(unit)
        return [
            Advanced(state=states[r.order_id])
            if r.order_id in states
            else NotFound(f"there is no order {r.order_id}", code="unknown_order")
            for r in requests
        ]

    def _externally(self, order: ledger.NewOrder) -> ledger.NewOrder | Error:
        """The order as one that is paid at the provider."""
        if not self._settings.provider_url:
            return Invalid("this shop takes no external payments; pay from the wallet", code="no_payment_provider")
        return msgspec.structs.replace(order, payment=PaymentMethod.EXTERNAL)

    async def _place_fresh(
        self, fresh: dict[int, ledger.NewOrder], repeats: list[int], outcomes: _Outcomes, place: _Placing
    ) -> None:
        """Place what is new; what turns out to be a repeat goes there."""
        keyed = any(order.key is not None for order in fresh.values())
        for _ in range(_KEY_RACES_MAX):
            if keyed:
                for i in await self._already_placed(fresh):
                    del fresh[i]
                    repeats.append(i)
            try:
                placed = await place(list(fresh.values()))
            except Conflict as conflict:
                if not keyed or conflict.code != "unique_violated":
                    raise
                continue  # another process was faster with a key, and nothing of this run was kept: look again
            for i, outcome in zip(fresh, placed, strict=True):
                outcomes[i] = outcome
            return
        raise Unavailable(
            "other requests with the same idempotency keys keep coming; send it again",
            code="not_placed",
            retry_after_s=0.1,
        )

    async def _place(self, orders: Sequence[ledger.NewOrder]) -> list[PlacedOrder | Error]:
        if not orders:
            return []
        transactions = [
            NewTransaction(
                order.id,
                {
                    StockHolds.service: Reserve(lines=order.stock),
                    WalletHolds.service: Charge(
                        user_id=order.user_id, amount_minor=order.total_minor, currency=order.currency
                    ),
                },
            )
            for order in orders
        ]

        async def begin(tx: Tx) -> None:
            await ledger.insert(tx, orders, self._clock.now_us())

        outcomes = await self._transactions.run(transactions, begin=begin)
        self._feed.wake()
        return [_placed(order, outcome) for order, outcome in zip(orders, outcomes, strict=True)]

    async def _hold(self, orders: Sequence[ledger.NewOrder]) -> list[PlacedOrder | Error]:
        """Hold the stock of orders, and ask the provider where they are paid."""
        if not orders:
            return []
        transactions = [NewTransaction(order.id, {StockHolds.service: Reserve(lines=order.stock)}) for order in orders]

        async def begin(tx: Tx) -> None:
            await ledger.insert(tx, orders, self._clock.now_us())

        outcomes = await self._transactions.hold(transactions, expires_s=self._settings.pay_within_s, begin=begin)
        self._feed.wake()
        held = [order.id for order, outcome in zip(orders, outcomes, strict=True) if outcome.accepted]
        pay_urls = dict(zip(held, await asyncio.gather(*map(self._pay_url, held)), strict=True))
        return [
            _placed(order, outcome, pay_urls.get(order.id)) for order, outcome in zip(orders, outcomes, strict=True)
        ]

    async def _pay_url(self, order_id: int) -> str:
        """Where an order is paid; empty when the provider does not say in time: then the desk goes on asking."""
        try:
            async with asyncio.timeout(max(0.0, (remaining_s() or 0.0) - _ANSWER_S)):
                return await self._till.open(order_id)
        except (Error, TimeoutError) as error:
            log.warning("the payment provider will be asked again", order_id=order_id, error=str(error))
            return ""

    async def _already_placed(self, fresh: dict[int, ledger.NewOrder]) -> list[int]:
        """Which of these carry a key that was used before."""
        keys = [(order.user_id, order.key) for order in fresh.values() if order.key is not None]
        known = await self._store.read(lambda tx: ledger.find_by_key(tx, keys))
        return [i for i, order in fresh.items() if order.key is not None and (order.user_id, order.key) in known]

    async def _repeated(self, request: PlaceOrder, until: float) -> PlacedOrder | Error:
        """The first answer again for the same order; a conflict for another one under the same key."""
        place = (_number(request.user_id), request.idempotency_key)
        loop = asyncio.get_running_loop()
        while True:
            running = self._keys.get(place)
            if running is not None:
                await asyncio.wait([running], timeout=max(0.0, until - loop.time()))
                if not running.done():
                    return _still_placing()
            row = (await self._store.read(lambda tx: ledger.find_by_key(tx, [place]))).get(place)
            if row is None:
                return Unavailable(
                    "the first request with this idempotency key did not get through; send it again",
                    code="not_placed",
                    retry_after_s=0.1,
                )
            order = ledger.to_order(row)
            if (list(order.lines), order.payment) != (list(request.lines), request.payment):
                return Conflict(
                    f"idempotency key {request.idempotency_key!r} was used for a different order ({order.order_id}); "
                    f"use a new key for a new order",
                    code="idempotency_key_reused",
                    order_id=order.order_id,
                )
            if order.state is not OrderState.PLACING:
                return _answer(order, row)
            if loop.time() >= until:
                return _still_placing()
            await asyncio.sleep(0.05)  # another process, or recovery after a crash, is deciding it

    async def _unless_cancelling(self, request: CancelOrder) -> tuple[Order, str]:
        """The order, once no other cancellation has it, or as it is when that takes too long; and why it ended so."""
        while True:
            row = await self._find(request.order_id, request.user_id)
            order = ledger.to_order(row)
            if order.state is not OrderState.CANCELLING or (remaining_s() or 0.0) <= _ANSWER_S:
                return order, str(row[8] or "")
            await asyncio.sleep(0.02)

    async def _settled(self, order_id: int) -> None:
        """Wait until the order's stock and money have been taken for good, so that there is something to give back."""
        while (state := await self._transactions.state(order_id)) in NOT_SETTLED:
            if state is TransactionState.PARKED_CONFIRMING:
                raise Unavailable(
                    f"order {order_id} waits for an operator, and can be cancelled when that is done",
                    code="settling",
                )
            if (remaining_s() or 0.0) <= 0.1:
                raise Unavailable(f"order {order_id} is still settling; try again", code="settling", retry_after_s=1.0)
            await asyncio.sleep(0.02)

    async def _find(self, order_id: str, user_id: str) -> Row:
        row = await self._store.read(lambda tx: ledger.find(tx, int(order_id), _number(user_id)))
        if row is None or row[2] == OrderState.PLACING.value:
            raise NotFound(f"you have no order {order_id}", code="unknown_order", order_id=order_id)
        return row


def _price(request: PlaceOrder, prices: dict[str, Price | Error], number: int) -> ledger.NewOrder | Error:
    """The order with its total and its id made from a fresh number, or what is wrong with it."""
    total_minor, currency = 0, ""
    for line in request.lines:
        price = prices[line.sku]
        if isinstance(price, Error):
            if price.code == "unknown_sku":
                return Invalid(f"there is no SKU {line.sku!r}", code="unknown_sku", sku=line.sku)
            return price
        if currency and price[1] != currency:
            return Invalid(
                f"an order has one currency; SKU {line.sku!r} costs {price[1]}, the others {currency}",
                code="mixed_currencies",
            )
        currency = price[1]
        total_minor += price[0] * line.quantity
    try:
        user_id = _number(request.user_id)
    except Error as error:
        return error
    order_id = ledger.place_id(number, user_id)
    lines = _encode(request.lines).decode()
    stock = [(line.sku, line.quantity) for line in request.lines]
    return ledger.NewOrder(order_id, user_id, total_minor, currency, lines, stock, request.idempotency_key or None)


def _number(user_id: str) -> int:
    try:
        return parse_id(user_id)
    except Invalid:
        raise Invalid(f"user_id {user_id!r} is not a user's id", code="invalid_field", field="user_id") from None


def _placed(order: ledger.NewOrder, outcome: Outcome, pay_url: str | None = None) -> PlacedOrder | Error:
    if outcome.accepted:
        return PlacedOrder(
            order_id=str(order.id),
            state=OrderState.AWAITING_PAYMENT if outcome.held else OrderState.CONFIRMED,
            total_minor=order.total_minor,
            currency=order.currency,
            pay_url=pay_url or "",
        )
    return _refusal(str(order.id), outcome.code, outcome.message)


def _answer(order: Order, row: Row) -> PlacedOrder | Error:
    """What the first request was told, from what is stored; of an external payment, how it stands."""
    if order.state is OrderState.REFUSED:
        return _refusal(order.order_id, str(row[8]), order.refusal)
    return PlacedOrder(
        order_id=order.order_id,
        state=OrderState.CONFIRMED if order.payment is PaymentMethod.WALLET else order.state,
        total_minor=order.total_minor,
        currency=order.currency,
        pay_url=order.pay_url,
    )


def _still_placing() -> Unavailable:
    return Unavailable("the order is still being placed; ask again", code="placing", retry_after_s=1.0)


def _refusal(order_id: str, code: str, message: str) -> Error:
    if code == "unavailable":
        return Unavailable(message, code="participant_unavailable", retry_after_s=1.0, order_id=order_id)
    if code in ledger.FAULTS:
        return Internal(ledger.FAULT, code=code, order_id=order_id)
    return Conflict(message, code=code, order_id=order_id)
