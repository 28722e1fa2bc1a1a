"""The books: all databases of the shop against each other, and against what a generator saw acknowledged.

The databases are read as files, read-only, not through the services: a service that lies about its state is found out.
Three databases are not read at one instant, so the shop is given time to settle first (no transaction under way), and
what still disagrees then is looked at twice.
"""

from __future__ import annotations

import array
import asyncio
import bisect
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from dougong.errors import NotFound
from dougong.evidence import Discrepancy, Journal
from shop.orders import OrderState, PlacedOrder, PlaceOrder
from shop.proof._ledgers import LEDGERS, Finding, Intent, provider_ledger

__all__ = ["Before", "OrderJournal", "audit", "is_at_rest", "is_settled", "look_before"]

OrderJournal = Journal[PlaceOrder, PlacedOrder]

ACCEPTED = frozenset(state.value for state in OrderState) - {"placing", "refused"}
"""States that an order reaches only after its stock was taken, and its money taken or a payment awaited."""
SHOWN_MAX = 20
"""Discrepancies listed per kind; the rest are counted."""
_LOOK_AGAIN_S = 0.1
_OF_USERS = (
    ("users_wallets", "wallets", "user_id, available, frozen, spent, deposited", "user_id % 128"),
    ("users_fence", "dougong_fence", "scope, transaction_id, state", "transaction_id % 128"),
    ("users_floors", "dougong_fence_floors", "scope, bucket, floor_us", "bucket"),
)
"""(view, table, columns, a row's bucket)"""

_encode = msgspec.json.encode


class Before(msgspec.Struct, frozen=True):
    """What was there before a run, so that the run answers only for itself."""

    order_ids: array.array[int]
    """Sorted."""
    users_max: int
    deposited: int
    """Over all users up to `users_max`."""

    def had(self, order_id: int) -> bool:
        at = bisect.bisect_left(self.order_ids, order_id)
        return at < len(self.order_ids) and self.order_ids[at] == order_id


NOTHING_BEFORE = Before(array.array("q"), 0, 0)


def look_before(data: Path) -> Before:
    """Take note of what is there. Milliseconds per ten thousand orders."""
    with closing(_open(data)) as books:
        ids = array.array("q", (row[0] for row in books.execute("SELECT id FROM orders ORDER BY id")))
        users_max, deposited = books.execute(
            "SELECT coalesce(max(user_id), 0), coalesce(sum(deposited), 0) FROM users_wallets"
        ).fetchone()
    return Before(ids, users_max, deposited)


def is_settled(data: Path) -> bool:
    """Whether no transaction is under way."""
    with closing(_open(data)) as books:
        return _unsettled(books) == 0


def is_at_rest(data: Path) -> bool:
    """Whether no transaction is under way and nothing is on its way to a customer or back. Cheap, however many orders
    there are: whatever goes on by itself has a deadline."""
    with closing(_open(data)) as books:
        (moving,) = books.execute(
            "SELECT EXISTS (SELECT 1 FROM orders WHERE due_us IS NOT NULL) "
            "OR EXISTS (SELECT 1 FROM payments WHERE due_us IS NOT NULL)"
        ).fetchone()
        return not moving and _unsettled(books) == 0


async def audit(
    data: Path,
    journal: OrderJournal | None = None,
    *,
    before: Before = NOTHING_BEFORE,
    settle_s: float = 60.0,
    second_look_s: float = 1.0,
    intents: Mapping[str, Sequence[Intent]] | None = None,
) -> list[Discrepancy]:
    """Everything that must not be; empty when the books agree.

    Waits up to `settle_s` for transactions under way, and `second_look_s` before a second look at what was found.
    `journal` are the outcomes a generator saw since `before`: what it saw acknowledged must be there, once, as asked
    for; what is there and was not acknowledged must be among what it never learnt the outcome of. Without a journal
    only the databases are compared with each other. `intents` are the payment provider's books, by order id.
    """
    give_up = time.monotonic() + settle_s
    while not await asyncio.to_thread(is_settled, data):
        if time.monotonic() > give_up:
            break  # what is still under way shows as a discrepancy
        await asyncio.sleep(_LOOK_AGAIN_S)
    found = await asyncio.to_thread(_compare, data, journal, before, intents)
    if found:
        await asyncio.sleep(second_look_s)
        found = await asyncio.to_thread(_compare, data, journal, before, intents)
    return found


def _open(data: Path) -> sqlite3.Connection:
    for name in ("orders.db", "inventory.db", "users.db-0.db"):
        if not (data / name).exists():
            raise NotFound(f"there is no {name} in {data}: has the shop been up on it?", code="no_books")
    path = data.absolute()
    books = sqlite3.connect(f"{(path / 'orders.db').as_uri()}?mode=ro", uri=True, timeout=10.0)
    books.execute("ATTACH ? AS inventory", (f"{(path / 'inventory.db').as_uri()}?mode=ro",))
    attach_users(books, path)
    return books


def attach_users(books: sqlite3.Connection, data: Path) -> None:
    """The databases of the user centre as one: views `users_wallets`, `users_fence` and `users_floors`.

    Of each the rows whose buckets it owns: what a move left behind counts no more.
    """
    files = sorted(data.absolute().glob("users.db-*.db"))
    for number, file in enumerate(files):
        books.execute(f"ATTACH ? AS users_{number}", (f"{file.as_uri()}?mode=ro",))
    for view, table, columns, bucket in _OF_USERS:
        parts = [
            f"SELECT {columns} FROM users_{number}.{table} WHERE {bucket} IN "  # noqa: S608 (our own constants)
            f"(SELECT bucket FROM users_{number}.dougong_bucket_owner WHERE state <> 'gone')"
            for number in range(len(files))
        ]
        books.execute(f"CREATE TEMP VIEW {view} AS {' UNION ALL '.join(parts)}")


def _unsettled(books: sqlite3.Connection) -> int:
    (transactions,) = books.execute("SELECT count(*) FROM dougong_transactions WHERE due_us IS NOT NULL").fetchone()
    return int(transactions)


def _compare(
    data: Path, journal: OrderJournal | None, before: Before, intents: Mapping[str, Sequence[Intent]] | None
) -> list[Discrepancy]:
    with closing(_open(data)) as books:
        found = [finding for ledger in LEDGERS for finding in ledger(books)]
        if intents is not None:
            found += provider_ledger(books, intents)
        if journal is not None:
            found += _journal(books, journal, before)
            found += _deposits(books, before)
    return _bounded(found)


def _journal(books: sqlite3.Connection, journal: OrderJournal, before: Before) -> Iterator[Finding]:
    """What was acknowledged is there, once and as asked for; what is there was acknowledged, or may have happened."""
    acknowledged: dict[int, tuple[PlaceOrder, PlacedOrder]] = {}
    for request, reply in journal.acknowledged:
        order_id = int(reply.order_id)
        first = acknowledged.setdefault(order_id, (request, reply))
        if first[0] is not request and not (request.idempotency_key and request == first[0]):
            yield "doubled_order", f"order {order_id} was acknowledged for two requests: {first[0]} and {request}"
    possible = Counter(_wish(request) for request in journal.unknown)
    for id_, user_id, state, total_minor, lines, key in books.execute(
        "SELECT id, user_id, state, total_minor, lines, idempotency_key FROM orders"
    ):
        seen = acknowledged.pop(id_, None)
        if seen is not None:
            yield from _as_acknowledged(id_, user_id, state, total_minor, lines, *seen)
        elif state in ACCEPTED and not before.had(id_):
            wish = (str(user_id), lines, key or "")
            possible[wish] -= 1
            if possible[wish] < 0:
                what = f"order {id_} of user {user_id} is {state}; it was neither acknowledged nor left open"
                yield "phantom_order", f"{what} (somebody else may have ordered meanwhile)"
    for id_, (request, _) in acknowledged.items():
        yield "lost_order", f"order {id_} of user {request.user_id} was acknowledged and is not there"


def _as_acknowledged(
    id_: int, user_id: int, state: str, total_minor: int, lines: str, request: PlaceOrder, reply: PlacedOrder
) -> Iterator[Finding]:
    if state not in ACCEPTED:
        yield "unkept_order", f"order {id_} was acknowledged and is {state}"
    if total_minor != reply.total_minor:
        yield "wrong_total", f"order {id_} was acknowledged with total {reply.total_minor:,} and has {total_minor:,}"
    if (str(user_id), lines) != _wish(request)[:2]:
        yield "wrong_order", f"order {id_} was asked for as {request} and is {lines} of user {user_id}"


def _wish(request: PlaceOrder) -> tuple[str, str, str]:
    """(user, lines as stored, idempotency key): what an order can be recognized by."""
    return request.user_id, _encode(request.lines).decode(), request.idempotency_key


def _deposits(books: sqlite3.Connection, before: Before) -> Iterator[Finding]:
    (deposited,) = books.execute(
        "SELECT coalesce(sum(deposited), 0) FROM users_wallets WHERE user_id <= ?", (before.users_max,)
    ).fetchone()
    if deposited != before.deposited:
        yield "wallet_deposits", f"{before.deposited:,} was deposited before the run, {deposited:,} after it"


def _bounded(found: Sequence[Finding]) -> list[Discrepancy]:
    shown: Counter[str] = Counter()
    discrepancies: list[Discrepancy] = []
    for kind, what in found:
        shown[kind] += 1
        if shown[kind] <= SHOWN_MAX:
            discrepancies.append(Discrepancy(kind, what))
    discrepancies += [
        Discrepancy(kind, f"and {count - SHOWN_MAX:,} more of this kind")
        for kind, count in shown.items()
        if count > SHOWN_MAX
    ]
    return discrepancies
