"""Branches that are transactions themselves, and several branches at one participant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import pytest
from tests.tcc.stage import QUICK, Switch, coordinating, is_, stock, until
from tests.tcc.world import Purse, Shelf, Take

from dougong.store import IdBlocks, Store, open_store
from dougong.tcc import Coordinator, NestedService, NewTransaction, ParticipantService, TransactionState
from dougong.tcc.wire import Forget, Settle, TryBatch


class Bundle(msgspec.Struct, frozen=True):
    """A thing that takes from shelf and purse together."""

    sku: str
    quantity: int


class Bundles(NestedService[Bundle], package="test.v1", payload=Bundle):
    """Bundles."""


def branches(bundle: Bundle) -> Mapping[str, msgspec.Struct]:
    take = Take(bundle.sku, bundle.quantity)
    return {Shelf.service: take, Purse.service: take}


BUNDLES = "test.v1.Bundles"


@pytest.fixture
async def middle(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    store = await open_store(fresh_url())
    yield store
    await store.close()


@pytest.fixture
async def below(
    middle: Store, shelf: ParticipantService[Any], purse: ParticipantService[Any]
) -> AsyncIterator[Coordinator]:
    patient = msgspec.structs.replace(QUICK, try_timeout_s=30.0)  # what is tried is answered, on a busy machine too
    coordinator = Coordinator(
        middle, initiator="bundles", participants={Shelf.service: shelf, Purse.service: purse}, settings=patient
    )
    await coordinator.start()
    yield coordinator
    await coordinator.stop()


@pytest.fixture
async def bundles(middle: Store, below: Coordinator) -> Bundles:
    service = Bundles(middle, below, IdBlocks(middle, "bundles"), branches)
    await service.start()
    return service


def tries(*items: tuple[int, Bundle], sent_us: int = 1000) -> TryBatch:
    return TryBatch(
        initiator="orders",
        sent_us=sent_us,
        transactions=[t for t, _ in items],
        payloads=[msgspec.msgpack.encode(b) for _, b in items],
    )


def settle(*transactions: int, sent_us: int = 2000) -> Settle:
    return Settle(initiator="orders", sent_us=sent_us, transactions=list(transactions))


async def test_two_levels_are_one_transaction(
    books: Store, bundles: Bundles, shelf_store: Store, purse_store: Store
) -> None:
    async with coordinating(books, {BUNDLES: bundles}) as coordinator:
        outcomes = await coordinator.run(
            [NewTransaction(1, {BUNDLES: Bundle("a", 2)}), NewTransaction(2, {BUNDLES: Bundle("a", 99)})]
        )
        assert [(o.accepted, o.code) for o in outcomes] == [(True, ""), (False, "insufficient_stock")]
        await is_(books, 1, TransactionState.CONFIRMED)
        await until(lambda: _is(shelf_store, (8, 0, 2)))
        await until(lambda: _is(purse_store, (8, 0, 2)))


async def test_what_is_refused_beside_it_is_given_back_below(
    books: Store, bundles: Bundles, shelf: ParticipantService[Any], shelf_store: Store, purse_store: Store
) -> None:
    async with coordinating(books, {BUNDLES: bundles, Shelf.service: shelf}) as coordinator:
        (outcome,) = await coordinator.run(
            [NewTransaction(1, {BUNDLES: Bundle("a", 2), Shelf.service: Take("nothing", 1)})]
        )
        assert outcome.code == "insufficient_stock"
        await is_(books, 1, TransactionState.CANCELLED)
        await until(lambda: _is(shelf_store, (10, 0, 0)))
        await until(lambda: _is(purse_store, (10, 0, 0)))


async def test_calls_repeated_late_and_in_the_wrong_order(bundles: Bundles, shelf_store: Store) -> None:
    assert not (await bundles.try_(tries((1, Bundle("a", 1))))).items
    assert not (await bundles.try_(tries((1, Bundle("a", 1))))).items, "the same again"
    mixed = await bundles.try_(tries((1, Bundle("a", 5)), (2, Bundle("a", 1))))
    assert (mixed.items, mixed.codes) == ([0], ["payload_mismatch"]), "and its neighbour was held"
    assert await stock(shelf_store) == (8, 2, 0)
    assert not (await bundles.cancel(settle(7))).items, "an empty cancel"
    assert (await bundles.try_(tries((7, Bundle("a", 1))))).codes == ["suspended"]
    assert (await bundles.confirm(settle(8, 1))).codes == ["confirm_without_try"]
    assert not (await bundles.confirm(settle(1, 1))).items
    assert (await bundles.cancel(settle(1, 2))).codes == ["cancel_after_confirm"]
    assert (await bundles.confirm(settle(2))).codes == ["confirm_after_cancel"]
    await until(lambda: _is(shelf_store, (9, 0, 1)))
    assert (await bundles.try_(tries((3, Bundle("x", 1))))).codes == ["insufficient_stock"]
    broken = tries((4, Bundle("a", 1)))
    broken.payloads[0] = b"\xc1"
    assert (await bundles.try_(broken)).codes == ["malformed_payload"]


async def test_rows_are_forgotten_but_those_to_keep(bundles: Bundles, middle: Store) -> None:
    await bundles.try_(tries(*((i, Bundle("a", 1)) for i in range(1, 5))))
    gone = await bundles.forget(Forget(initiator="orders", before_us=1500, keep=[2]))
    assert (gone.rows, gone.more) == (3, False)
    assert await middle.fetch_all("SELECT transaction_id FROM dougong_nested") == [(2,)]


async def test_two_branches_at_one_participant(
    books: Store, shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    second = f"{Shelf.service}#second"
    switch = Switch(shelf)
    async with coordinating(books, {Shelf.service: shelf, second: switch}) as coordinator:
        outcomes = await coordinator.run(
            [
                NewTransaction(1, {Shelf.service: Take("a", 1), second: Take("b", 2)}),
                NewTransaction(2, {Shelf.service: Take("a", 1), second: Take("b", 99)}),
            ]
        )
        assert [o.accepted for o in outcomes] == [True, False]
        await is_(books, 1, TransactionState.CONFIRMED)
        await is_(books, 2, TransactionState.CANCELLED)
        assert await stock(shelf_store, "a") == (9, 0, 1)
        assert await stock(shelf_store, "b") == (8, 0, 2)
        await coordinator._recovery.forget_once()
    rows = await shelf_store.fetch_all("SELECT initiator FROM dougong_fence_scopes ORDER BY initiator")
    assert rows == [("orders",), ("orders#second",)]


async def _is(store: Store, wanted: tuple[int, int, int]) -> bool:
    return bool(await stock(store) == wanted)
