"""A participant whose part is a transaction of its own: to its caller a branch, to its own participants an initiator.

Try holds a transaction over the participants below, Confirm and Cancel release it. The fence of such a branch is the
log below: a row says which transaction stands for the branch, so a repeated Try finds it, and a Cancel that comes first
leaves a row without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar, cast

import msgspec

from dougong.contract import Service, rpc
from dougong.errors import Conflict, Error, Invalid, Unavailable
from dougong.store import IdBlocks, Store, Tx, migrations_from
from dougong.tcc.coordinator import Coordinator
from dougong.tcc.transaction import Decision, NewTransaction
from dougong.tcc.wire import Answer, BranchReply, Forget, Forgotten, Settle, TryBatch, reply_of
from dougong.telemetry import span

__all__ = ["NestedService"]

P = TypeVar("P")
Expand = Callable[[P], Mapping[str, msgspec.Struct]]

_FORGET_ROWS = 5000
_RACES_MAX = 5


class NestedService(Service, Generic[P]):
    """`ParticipantClient` over a coordinator. Serve it like a `ParticipantService`, or call it directly.

    class Bundles(NestedService[Bundle], package="shop.v1", payload=Bundle): ...

    bundles = Bundles(store, coordinator, IdBlocks(store, "bundles"), lambda bundle: {Stock.service: ..., ...})

    `store` is the coordinator's. `expand` says which branches a payload has; it must say the same each time. `ids` are
    those that the initiator's other transactions are numbered by, if it has any. What is held below waits for the word
    from above for as long as that takes, as any participant does.
    """

    payload: ClassVar[type]

    def __init_subclass__(cls, *, payload: type | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[arg-type]
        if payload is not None:
            cls.payload = payload

    def __init__(self, store: Store, coordinator: Coordinator, ids: IdBlocks, expand: Expand[P]) -> None:
        self._store = store
        self._coordinator = coordinator
        self._ids = ids
        self._expand = expand
        decoder: msgspec.msgpack.Decoder[P] = msgspec.msgpack.Decoder(type(self).payload)
        self._decode = decoder.decode

    async def start(self) -> None:
        """Create or upgrade the table of branches."""
        await self._store.migrate("dougong.tcc.nested", migrations_from("dougong.tcc.migrations.nested"))

    @rpc(internal=True, idempotent=True, timeout_s=10.0)
    async def try_(self, request: TryBatch) -> BranchReply:
        """Hold a transaction for each branch; the reply lists what was refused."""
        if len(request.payloads) != len(request.transactions):
            raise Invalid(f"{len(request.transactions)} transactions with other payloads", code="invalid_field")
        if len(set(request.transactions)) < len(request.transactions):
            raise Invalid("a transaction comes twice in one call", code="invalid_field")
        answers: list[Answer] = []
        wanted: dict[int, tuple[int, Mapping[str, msgspec.Struct]]] = {}
        for i, (transaction, payload) in enumerate(zip(request.transactions, request.payloads, strict=True)):
            try:
                wanted[transaction] = (i, self._expand(self._decode(payload)))
            except msgspec.MsgspecError as error:
                answers.append((i, "invalid", "malformed_payload", f"payload of transaction {transaction}: {error}"))
        with span("tcc.nested.try", items=len(wanted)):
            for _ in range(_RACES_MAX):
                if not wanted:
                    return reply_of(answers)
                try:
                    return reply_of(answers + await self._hold(request, wanted))
                except Conflict as conflict:
                    if conflict.code != "unique_violated":
                        raise  # else the same Try was faster with a branch: look again
        raise Unavailable("the same branches keep being tried by others; send it again", code="branch_race")

    @rpc(internal=True, idempotent=True, timeout_s=10.0)
    async def confirm(self, request: Settle) -> BranchReply:
        """Confirm what was held; the reply lists what could not be."""
        children = await self._children(request.initiator, request.transactions)
        answers: list[Answer] = [
            (i, "conflict", "confirm_without_try", f"transaction {t} was never tried here")
            for i, t in enumerate(request.transactions)
            if children.get(t) is None
        ]
        return reply_of(answers + await self._release(request, children, accepted=True))

    @rpc(internal=True, idempotent=True, timeout_s=10.0)
    async def cancel(self, request: Settle) -> BranchReply:
        """Cancel what was held; what was never tried is remembered, so that a late Try is refused."""
        for _ in range(_RACES_MAX):
            children = await self._children(request.initiator, request.transactions)
            unknown = [t for t in dict.fromkeys(request.transactions) if t not in children]
            try:
                await self._suspend(request, unknown)
            except Conflict as conflict:
                if conflict.code != "unique_violated":
                    raise
                continue  # its Try arrived in between
            return reply_of(await self._release(request, children, accepted=False))
        raise Unavailable("these branches keep being tried; send it again", code="branch_race")

    @rpc(internal=True, idempotent=True, timeout_s=10.0)
    async def forget(self, request: Forget) -> Forgotten:
        """Drop rows of transactions that are over."""

        async def unit(tx: Tx) -> Forgotten:
            rows = await tx.fetch_all(
                "SELECT transaction_id FROM dougong_nested WHERE initiator = ? AND sent_us < ? "
                "ORDER BY sent_us LIMIT ?",
                (request.initiator, request.before_us, _FORGET_ROWS + len(request.keep)),
            )
            kept = set(request.keep)
            drop = [row[0] for row in rows if row[0] not in kept]
            await tx.execute_many(
                "DELETE FROM dougong_nested WHERE initiator = ? AND transaction_id = ?",
                [(request.initiator, t) for t in drop],
            )
            return Forgotten(rows=len(drop), more=len(drop) >= _FORGET_ROWS)

        return await self._store.write(unit)

    async def _hold(
        self, request: TryBatch, wanted: Mapping[int, tuple[int, Mapping[str, msgspec.Struct]]]
    ) -> list[Answer]:
        children = await self._children(request.initiator, list(wanted))
        answers: list[Answer] = [
            (wanted[t][0], "", "suspended", "the transaction was cancelled before this Try arrived")
            for t, child in children.items()
            if child is None
        ]
        fresh = [t for t in wanted if t not in children]
        ids = dict(zip(fresh, await self._ids.take(len(fresh)), strict=True))

        async def begin(tx: Tx) -> None:
            await tx.execute_many(
                "INSERT INTO dougong_nested (initiator, transaction_id, sent_us, child) VALUES (?, ?, ?, ?)",
                [(request.initiator, t, request.sent_us, ids[t]) for t in fresh],
            )

        outcomes = list(
            await self._coordinator.hold(
                [NewTransaction(ids[t], wanted[t][1]) for t in fresh], expires_s=math.inf, begin=begin
            )
        )
        ids.update({t: child for t, child in children.items() if child is not None})
        positions = {child: wanted[t][0] for t, child in ids.items()}
        again = {child: NewTransaction(child, wanted[t][1]) for t, child in children.items() if child is not None}
        while again:
            try:
                outcomes += await self._coordinator.hold(list(again.values()), expires_s=math.inf)
                break
            except Conflict as conflict:
                if conflict.code != "payload_mismatch":
                    raise
                other = cast(int, conflict.fields["transaction"])
                del again[other]  # its neighbours are answered all the same
                answers.append((positions[other], "conflict", conflict.code, conflict.message))
        for outcome in outcomes:
            if not outcome.accepted:
                family = "unavailable" if outcome.code == "unavailable" else ""
                answers.append((positions[outcome.transaction], family, outcome.code, outcome.message))
        return answers

    async def _release(self, request: Settle, children: Mapping[int, int | None], *, accepted: bool) -> list[Answer]:
        held = [(i, child) for i, t in enumerate(request.transactions) if (child := children.get(t)) is not None]
        decisions = {
            child: Decision(child, True) if accepted else Decision(child, False, "cancelled", "cancelled from above")
            for _, child in held
        }
        outcomes = dict(zip(decisions, await self._coordinator.release(list(decisions.values())), strict=True))
        answers: list[Answer] = []
        for i, child in held:
            outcome = outcomes[child]
            if isinstance(outcome, Error):
                if outcome.code != "unknown_transaction":  # over, and forgotten below: settled long ago
                    answers.append((i, "unavailable", outcome.code, outcome.message))
            elif outcome.accepted != accepted:
                code = "confirm_after_cancel" if accepted else "cancel_after_confirm"
                answers.append((i, "conflict", code, f"it was decided otherwise here: {outcome.code or 'confirmed'}"))
        return answers

    async def _children(self, initiator: str, transactions: Sequence[int]) -> dict[int, int | None]:
        """Branch → our transaction; None for one that was cancelled before its Try."""

        async def look(tx: Tx) -> dict[int, int | None]:
            found: dict[int, int | None] = {}
            for transaction in transactions:
                row = await tx.fetch_one(
                    "SELECT child FROM dougong_nested WHERE initiator = ? AND transaction_id = ?",
                    (initiator, transaction),
                )
                if row is not None:
                    found[transaction] = cast("int | None", row[0])
            return found

        return await self._store.read(look)

    async def _suspend(self, request: Settle, transactions: Sequence[int]) -> None:
        if not transactions:
            return

        async def unit(tx: Tx) -> None:
            await tx.execute_many(
                "INSERT INTO dougong_nested (initiator, transaction_id, sent_us) VALUES (?, ?, ?)",
                [(request.initiator, t, request.sent_us) for t in transactions],
            )

        await self._store.write(unit)
