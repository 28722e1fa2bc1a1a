"""What a rush sends, what it makes of answers, and a customer who does not give up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from dougong.errors import Conflict, DeadlineExceeded, Error, Internal, NotFound, Overloaded, Unavailable
from dougong.evidence import RushOptions, rush
from shop.orders import Line, OrderState, PlacedOrder, PlaceOrder
from shop.proof import OrderRush
from shop.proof._rush import _FromFile, _MadeUp
from shop.proof._targets import HttpTarget, Persistent, leaves_order_open

PLACED = PlacedOrder(order_id="7", state=OrderState.CONFIRMED, total_minor=100, currency="EUR")
SKUS = [f"sku-{n}" for n in range(100)]


def made_up(seed: int = 1, *, zipf_s: float = 1.0, keys: bool = False) -> _MadeUp:
    return _MadeUp(SKUS, range(1, 51), zipf_s, random.Random(seed), keys=keys)


def test_made_up_orders_are_within_bounds_and_repeat_by_seed() -> None:
    orders = made_up().make(5000)
    assert {line.quantity for order in orders for line in order.lines} == {1, 2, 3}
    assert {order.user_id for order in orders} == {str(n) for n in range(1, 51)}
    favourite = Counter(order.lines[0].sku for order in orders).most_common(1)[0][1]
    assert favourite / 5000 == pytest.approx(0.193, abs=0.03)  # 1 / H(100)
    assert not any(order.idempotency_key for order in orders)
    assert orders == made_up().make(5000)
    assert orders != made_up(2).make(5000)


def test_even_demand() -> None:
    demand = Counter(order.lines[0].sku for order in made_up(zipf_s=0.0).make(20_000))
    assert max(demand.values()) < 2 * min(demand.values())


def test_keys_are_new_in_every_run_whatever_the_seed() -> None:
    first, second = made_up(keys=True).make(100), made_up(keys=True).make(100)
    assert len({order.idempotency_key for order in first + second}) == 200


def test_orders_from_a_file_are_sent_once_and_keep_their_keys() -> None:
    line = [Line(sku="sku-1", quantity=1)]
    orders = [PlaceOrder(user_id="1", lines=line, idempotency_key="mine"), PlaceOrder(user_id="2", lines=line)]
    assert _FromFile(orders, keys=False).make(10) == orders
    source = _FromFile(orders, keys=True)
    (first,), (second,) = source.make(1), source.make(5)
    assert source.make(5) == []
    assert first.idempotency_key == "mine"
    assert second.idempotency_key.startswith("rush-")


@pytest.mark.parametrize(
    ("error", "open_"),
    [
        (Unavailable("gone", code="connection_lost"), True),
        (DeadlineExceeded("late"), True),
        (Internal("broken"), True),
        (Unavailable("refused for want of inventory", code="participant_unavailable", order_id="7"), False),
        (Conflict("sold out", code="insufficient_stock", order_id="7"), False),
        (Overloaded("full"), False),
    ],
)
def test_which_errors_leave_an_order_open(error: Error, open_: bool) -> None:
    assert leaves_order_open(error) is open_


class Flaky:
    """Each order gets through at its third attempt."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()

    async def send(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
        for request in requests:
            self.tries[request.idempotency_key] += 1
        return [
            PLACED if self.tries[r.idempotency_key] == 3 else Unavailable("gone", code="connection_lost")
            for r in requests
        ]


async def test_a_persistent_customer_asks_until_it_knows() -> None:
    flaky = Flaky()
    orders = made_up(keys=True).make(5)
    flaky.tries[orders[0].idempotency_key] = 2
    assert await Persistent(flaky).send(orders) == [PLACED] * 5
    assert [flaky.tries[order.idempotency_key] for order in orders] == [3] * 5


async def test_and_gives_up_in_the_end() -> None:
    class Gone:
        async def send(self, requests: Sequence[PlaceOrder]) -> Sequence[PlacedOrder | Error]:
            return [Unavailable("gone", code="connection_lost")] * len(requests)

    (outcome,) = await Persistent(Gone(), patience_s=0.05).send(made_up(keys=True).make(1))
    assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize(
    ("status", "body", "family", "code"),
    [
        (409, b'{"code":"insufficient_stock","fields":{"order_id":"7"},"title":""}', "conflict", "insufficient_stock"),
        (400, b'{"detail":"unknown_sku"}', "invalid", "http_400"),
        (422, b'{"detail":[{"loc":["body"]}]}', "invalid", "http_422"),
        (502, b"bad gateway", "internal", "http_502"),
        (503, b"", "unavailable", "http_503"),
        (429, b"", "overloaded", "http_429"),
    ],
)
async def test_answers_over_http_become_the_tree_of_errors(status: int, body: bytes, family: str, code: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = HttpTarget(lambda: f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "", 1)
    (outcome,) = await target.send(made_up().make(1))
    await target.close()
    server.close()
    assert isinstance(outcome, Error)
    assert (outcome.family, outcome.code) == (family, code)


async def test_a_shop_that_is_not_up(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="start it with 'dougong up'"):
        await rush(OrderRush(), RushOptions(data=str(tmp_path)))


def test_options_survive_the_way_to_another_process() -> None:
    options = RushOptions(rate=10.5, transport="http", keys=True, orders_file="a.csv")
    assert msgspec.json.decode(msgspec.json.encode(options), type=RushOptions) == options
