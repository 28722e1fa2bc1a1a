"""A participant behind its fence, on a real database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.tcc.world import Purse, Shelf, Take

from dougong.contract import describe
from dougong.errors import Invalid, Unavailable
from dougong.store import Store, Tx
from dougong.tcc import Hold, ParticipantService, Refusal, participant_service
from dougong.tcc.wire import BranchReply, Forget, Settle, TryBatch


def tries(ids: Sequence[int], quantity: int = 1, *, sent_us: int = 1000) -> TryBatch:
    payload = msgspec.msgpack.encode(Take("a", quantity))
    return TryBatch(initiator="orders", sent_us=sent_us, transactions=list(ids), payloads=[payload] * len(ids))


def settle(ids: Sequence[int], *, sent_us: int = 2000) -> Settle:
    return Settle(initiator="orders", sent_us=sent_us, transactions=list(ids))


def said(reply: BranchReply) -> dict[int, str]:
    return dict(zip(reply.items, reply.codes, strict=True))


async def stock(store: Store) -> Any:
    return await store.fetch_one("SELECT available, frozen, sold FROM shelf WHERE sku = 'a'")


async def test_the_way_of_a_branch(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    assert said(await shelf.try_(tries([1, 2], 3))) == {}
    assert await stock(shelf_store) == (4, 6, 0)
    assert said(await shelf.confirm(settle([1]))) == {}
    assert said(await shelf.cancel(settle([2]))) == {}
    assert await stock(shelf_store) == (7, 0, 3)


async def test_a_repeated_try_of_the_last_unit_finds_its_own_hold(
    shelf: ParticipantService[Any], shelf_store: Store
) -> None:
    await shelf.try_(tries([1], 10))
    assert said(await shelf.try_(tries([1], 10))) == {}
    assert said(await shelf.try_(tries([2], 1))) == {0: "insufficient_stock"}
    await shelf.cancel(settle([1]))
    assert said(await shelf.try_(tries([2], 1))) == {0: "insufficient_stock"}  # as it was answered
    assert await stock(shelf_store) == (10, 0, 0)


async def test_repeats_are_answered_without_effect(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    for _ in range(3):
        assert said(await shelf.try_(tries([1, 1, 2]))) == {}
    for _ in range(3):
        assert said(await shelf.confirm(settle([1, 1]))) == {}
        assert said(await shelf.cancel(settle([2]))) == {}
    assert await stock(shelf_store) == (9, 0, 1)


async def test_another_payload_is_refused(shelf: ParticipantService[Any]) -> None:
    await shelf.try_(tries([1], 1))
    reply = await shelf.try_(tries([1], 2))
    assert (said(reply), reply.families) == ({0: "payload_mismatch"}, ["conflict"])


async def test_a_cancel_before_the_try(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    assert said(await shelf.cancel(settle([1, 1]))) == {}
    assert said(await shelf.try_(tries([1, 2]))) == {0: "suspended"}
    assert said(await shelf.cancel(settle([1]))) == {}
    assert await stock(shelf_store) == (9, 1, 0)


async def test_contradictions_are_named(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    assert said(await shelf.confirm(settle([1]))) == {0: "confirm_without_try"}
    await shelf.try_(tries([2, 3]))
    await shelf.confirm(settle([2]))
    await shelf.cancel(settle([3]))
    assert said(await shelf.confirm(settle([2, 3]))) == {1: "confirm_after_cancel"}
    assert said(await shelf.cancel(settle([2, 3]))) == {0: "cancel_after_confirm"}
    assert await stock(shelf_store) == (9, 0, 1)


async def test_initiators_do_not_meet(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    await shelf.try_(tries([1]))
    other = msgspec.structs.replace(tries([1]), initiator="returns")
    assert said(await shelf.try_(other)) == {}
    assert await stock(shelf_store) == (8, 2, 0)


async def test_ids_far_apart(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    ids = [1, 1 << 40, (1 << 63) - 1]
    await shelf.try_(tries(ids))
    assert said(await shelf.try_(tries(ids))) == {}
    await shelf.confirm(settle(ids))
    assert await stock(shelf_store) == (7, 0, 3)


async def test_forgetting_keeps_what_may_come_back(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    await shelf.try_(tries([1, 2], sent_us=1000))
    await shelf.try_(tries([3], sent_us=5000))
    await shelf.confirm(settle([1, 3]))
    await shelf.cancel(settle([9], sent_us=1500))
    gone = await shelf.forget(Forget(initiator="orders", before_us=4000, keep=[2]))
    assert (gone.rows, gone.more) == (2, False)
    assert await shelf_store.fetch_all("SELECT transaction_id FROM dougong_fence") == [(2,), (3,)]
    assert said(await shelf.try_(tries([1], sent_us=1000))) == {0: "too_late"}
    assert said(await shelf.confirm(settle([1], sent_us=2000))) == {}  # an echo, no alarm
    assert said(await shelf.confirm(settle([2], sent_us=9000))) == {}
    assert await stock(shelf_store) == (7, 0, 3)
    assert (await shelf.forget(Forget(initiator="orders", before_us=6000))).rows == 2
    assert await shelf_store.fetch_all("SELECT * FROM dougong_fence_pages") == []


async def test_forgetting_goes_in_steps(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    for page in range(12):
        await shelf.cancel(settle(range(page * 1000 + 1, page * 1000 + 1001), sent_us=page))
    first = await shelf.forget(Forget(initiator="orders", before_us=100))
    assert (first.rows, first.more) == (5000, True)
    second = await shelf.forget(Forget(initiator="orders", before_us=100))
    third = await shelf.forget(Forget(initiator="orders", before_us=100))
    assert (second.rows + third.rows, third.more) == (7000, False)


async def test_a_poison_harms_only_itself(shelf_store: Store) -> None:
    class Poisoned(Shelf, service="test.v1.Poisoned", payload=Take):
        poison = frozenset({5, 17})

        async def try_(self, tx: Tx, holds: Sequence[Hold[Take]]) -> Sequence[Refusal | None]:
            if any(hold.transaction == 3 for hold in holds):
                raise ValueError("no three")
            return await super().try_(tx, holds)

    service = ParticipantService(Poisoned(), shelf_store)
    await service.start()
    await shelf_store.write(lambda tx: tx.execute("UPDATE shelf SET available = 100"))
    reply = await service.try_(tries(range(1, 21)))
    assert (said(reply), reply.families) == ({2: "participant_failed"}, ["internal"])
    assert said(await service.confirm(settle(range(4, 21)))) == {1: "participant_failed", 13: "participant_failed"}
    assert await stock(shelf_store) == (81, 4, 15)


async def test_a_bad_payload_harms_only_itself(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    request = msgspec.structs.replace(tries([1, 2]), payloads=[b"\xc1", msgspec.msgpack.encode(Take("a", 1))])
    assert said(await shelf.try_(request)) == {0: "malformed_payload"}
    assert await stock(shelf_store) == (9, 1, 0)
    with pytest.raises(Invalid):
        await shelf.try_(msgspec.structs.replace(request, payloads=[]))


async def test_a_database_that_is_gone_is_no_bodys_poison(shelf: ParticipantService[Any], shelf_store: Store) -> None:
    await shelf_store.close()
    with pytest.raises(Unavailable):
        await shelf.try_(tries([1, 2]))


def test_the_service_carries_the_participants_name() -> None:
    contract = describe(participant_service(Shelf))
    assert contract.name == "test.v1.Shelf"
    assert {m.name for m in contract.methods} == {"Try", "Confirm", "Cancel", "Forget"}
    assert all(m.internal and m.idempotent for m in contract.methods)
    assert describe(participant_service(Purse)).name == "test.v1.Purse"
    assert participant_service(Shelf) is participant_service(Shelf)
