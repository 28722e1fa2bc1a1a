"""A participant as a service: the fence around it, and one local transaction per call for everything it writes.

Over a sharded store that is one local transaction per database, each for the branches whose buckets it owns.

A call reads its fence rows, lets the fence judge, gives the participant what is left, and writes fence rows and
business rows together. So the fence and the stock cannot disagree, whatever crashes when.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from dougong.contract import Service, rpc
from dougong.errors import Error, Invalid, NotFound
from dougong.shard import BUCKETS, ShardedStore
from dougong.store import Store, Tx
from dougong.tcc._protocol import BranchState, Hold, Participant
from dougong.tcc.fence import ALARMS, Fence
from dougong.tcc.places import ManyPlaces, OnePlace, Places
from dougong.tcc.wire import Answer, BranchReply, Forget, Forgotten, Settle, TryBatch, reply_of
from dougong.telemetry import counter, get_logger, span

__all__ = ["ParticipantService", "participant_service"]

P = TypeVar("P")

_log = get_logger("dougong.tcc")
_branches = counter(
    "dougong_tcc_branches_total",
    "Branches that were asked for, by what the fence made of them.",
    labels=("participant", "call", "result"),
)
_alarms = counter(
    "dougong_tcc_alarms_total", "Contradictions between initiator and participant.", labels=("participant", "code")
)


class ParticipantService(Service, Generic[P]):
    """`ParticipantService(StockHolds(), store)`: served under the participant's own name, or called directly.

    It is a `ParticipantClient` itself: a coordinator in the same process calls the object, one elsewhere a client of
    `participant_service(StockHolds)`, with the same code.
    """

    def __new__(cls, participant: Participant[P], store: Store | ShardedStore) -> ParticipantService[P]:  # noqa: ARG004
        """An instance of the class that carries the participant's name."""
        return object.__new__(participant_service(type(participant)))

    def __init__(self, participant: Participant[P], store: Store | ShardedStore) -> None:
        self._participant = participant
        self._sharded = store if isinstance(store, ShardedStore) else None
        self._places: Places = ManyPlaces(store) if isinstance(store, ShardedStore) else OnePlace(store)
        self._fence = Fence()
        decoder: msgspec.msgpack.Decoder[P] = msgspec.msgpack.Decoder(participant.payload)
        self._decode = decoder.decode

    async def start(self) -> None:
        """Create or upgrade the fence's tables."""
        await self._places.start()

    @rpc(internal=True, idempotent=True, timeout_s=5.0)
    async def try_(self, request: TryBatch) -> BranchReply:
        """Reserve; the reply lists what was refused."""
        name = self._participant.service
        count = len(request.transactions)
        if len(request.payloads) != count:
            raise Invalid(f"{count} transactions with {len(request.payloads)} payloads", code="invalid_field")
        if not count:
            return reply_of([])
        with span("tcc.participant.try", participant=name, items=count):
            holds, answers, decoded = self._holds(request)
            positions: Sequence[int] = decoded
            if self._sharded is not None:
                positions = await self._placed(self._sharded, holds, positions, answers)

            async def try_(tx: Tx, some: Sequence[int]) -> list[Answer]:
                return await self._try(request, holds, some, tx)

            if positions:
                ids = [request.transactions[i] for i in positions]
                results, culprits = await self._places.each(positions, ids, try_)
                for result in results:
                    answers += result
                answers += [self._fault(i, request.transactions[i], "try", error) for i, error in culprits]
        return self._reply("try", request.transactions, answers)

    @rpc(internal=True, idempotent=True, timeout_s=5.0)
    async def confirm(self, request: Settle) -> BranchReply:
        """Make holds final; the reply lists those that could not be."""
        return await self._settle(request, BranchState.CONFIRMED, "confirm")

    @rpc(internal=True, idempotent=True, timeout_s=5.0)
    async def cancel(self, request: Settle) -> BranchReply:
        """Give holds back; one never tried is remembered, so that a late Try is refused."""
        return await self._settle(request, BranchState.CANCELLED, "cancel")

    @rpc(internal=True, idempotent=True, timeout_s=5.0)
    async def forget(self, request: Forget) -> Forgotten:
        """Drop rows of transactions that are over. Calls sent before that time are echoes from then on."""
        return await self._places.forget(self._participant.service, request)

    async def _try(
        self, request: TryBatch, holds: Sequence[Hold[P] | None], some: Sequence[int], tx: Tx
    ) -> list[Answer]:
        """One unit: the items at the positions `some`."""
        table, ids = self._places.table, request.transactions
        asked = ids if len(some) == len(ids) else [ids[i] for i in some]
        scope, over = await table.admit(tx, self._participant.service, request.initiator, request.sent_us, asked)
        late: list[Answer] = []
        if over:
            late = [
                (i, "", "too_late", "this Try belongs to a transaction that is over") for i in some if ids[i] in over
            ]
            some = [i for i in some if ids[i] not in over]
            if not some:
                return late
        whole = len(some) == len(request.transactions)
        transactions = request.transactions if whole else [request.transactions[i] for i in some]
        payloads = request.payloads if whole else [request.payloads[i] for i in some]
        known = await table.read(tx, scope, transactions)
        verdict = self._fence.judge_try(known, transactions, payloads)
        run, answers = verdict.run, verdict.answers
        refused: dict[int, tuple[str, str]] = {}
        if run:
            fresh: Sequence[Hold[P]] = [holds[some[i]] for i in run]  # type: ignore[misc]  # malformed ones are not in `some`
            says = await self._participant.try_(tx, fresh)
            if len(says) != len(run):
                raise TypeError(f"{type(self._participant).__name__}.try_ gave {len(says)} answers to {len(run)} holds")
            if any(says):
                for i, refusal in zip(run, says, strict=True):
                    if refusal is not None:
                        refused[i] = (refusal.code, refusal.message)
                        answers.append((i, "", refusal.code, refusal.message))
            await table.insert(
                tx,
                scope,
                request.sent_us,
                [(transactions[i], payloads[i]) for i in run if i not in refused],
                [(transactions[i], BranchState.REFUSED, payloads[i], *no) for i, no in refused.items()],
            )
        answers += [(i, "", *refused[j]) for i, j in verdict.echoes if j in refused]
        if whole:
            return answers
        return late + [(some[i], family, code, message) for i, family, code, message in answers]

    async def _settle(self, request: Settle, to: BranchState, call: str) -> BranchReply:
        ids = request.transactions
        if not ids:
            return reply_of([])
        with span(f"tcc.participant.{call}", participant=self._participant.service, items=len(ids)):

            async def settle(tx: Tx, some: Sequence[int]) -> list[tuple[int, Answer]]:
                return await self._settle_some(request, some, to, tx)

            results, culprits = await self._places.each(ids, ids, settle)
            answers: list[Answer] = []
            if culprits or any(results):
                at = {t: i for i, t in enumerate(ids)}
                answers = [(at[t], *answer[1:]) for result in results for t, answer in result]
                answers += [self._fault(at[t], t, call, error) for t, error in culprits]
        return self._reply(call, ids, answers)

    async def _settle_some(
        self, request: Settle, some: Sequence[int], to: BranchState, tx: Tx
    ) -> list[tuple[int, Answer]]:
        """One unit: some of the transactions; the exceptions by transaction."""
        table = self._places.table
        scope, over = await table.admit(tx, self._participant.service, request.initiator, request.sent_us, some)
        if over:  # echoes of what was settled long ago
            some = [t for t in some if t not in over]
            if not some:
                return []
        known = await table.read(tx, scope, some)
        verdict = self._fence.judge_settle(known, some, to)
        if verdict.run:
            decode = self._decode
            holds = [Hold(t, decode(known[t][1])) for t in verdict.run]  # type: ignore[arg-type]  # tried: has a payload
            if to is BranchState.CONFIRMED:
                await self._participant.confirm(tx, holds)
            else:
                await self._participant.cancel(tx, holds)
            await table.settle(tx, scope, verdict.run, to)
        if verdict.suspend:
            rows = [(t, BranchState.SUSPENDED, None, None, None) for t in verdict.suspend]
            await table.insert(tx, scope, request.sent_us, [], rows)
        return [(some[answer[0]], answer) for answer in verdict.answers]

    def _holds(self, request: TryBatch) -> tuple[list[Hold[P] | None], list[Answer], list[int] | range]:
        """Decoded holds, the answers for what cannot be decoded, and the positions that can."""
        decode = self._decode
        count = len(request.transactions)
        try:
            return [Hold(t, decode(p)) for t, p in zip(request.transactions, request.payloads)], [], range(count)  # noqa: B905 (lengths were checked)
        except msgspec.MsgspecError:
            pass
        holds: list[Hold[P] | None] = []
        answers: list[Answer] = []
        for i, (transaction, payload) in enumerate(zip(request.transactions, request.payloads, strict=True)):
            try:
                holds.append(Hold(transaction, decode(payload)))
            except msgspec.MsgspecError as error:
                holds.append(None)
                answers.append((i, "invalid", "malformed_payload", f"payload of transaction {transaction}: {error}"))
        return holds, answers, [i for i, hold in enumerate(holds) if hold is not None]

    async def _placed(
        self, sharded: ShardedStore, holds: Sequence[Hold[P] | None], positions: Sequence[int], answers: list[Answer]
    ) -> Sequence[int]:
        """Those whose rows lie in the bucket of their fence; the others are answered."""
        placed: list[int] = []
        find = sharded.routing.bucket
        for i in positions:
            hold: Hold[P] = holds[i]  # type: ignore[assignment]  # malformed ones are not in `positions`
            key = self._participant.key(hold.payload)
            bucket = find(key) if key is not None else None
            if bucket is None and key is not None:
                try:
                    bucket = await sharded.bucket_of(key, new=False)
                except NotFound:  # a key without rows is for the participant to refuse
                    pass
            if bucket is None or bucket == hold.transaction % BUCKETS:
                placed.append(i)
                continue
            answers.append(
                (
                    i,
                    "invalid",
                    "misplaced_branch",
                    f"transaction {hold.transaction} is of bucket {hold.transaction % BUCKETS}, {key!r} of {bucket}",
                )
            )
        return placed

    def _fault(self, i: int, transaction: int, call: str, error: Exception) -> Answer:
        name = self._participant.service
        if isinstance(error, Error):
            return (i, error.family, error.code, error.message)
        _log.error("participant_failed", participant=name, call=call, transaction=transaction, exc_info=error)
        return (i, "internal", "participant_failed", f"{name} failed on {call} of transaction {transaction}: {error!r}")

    def _reply(self, call: str, transactions: Sequence[int], answers: list[Answer]) -> BranchReply:
        name, count = self._participant.service, len(transactions)
        _branches.inc(count - len(answers), name, call, "yes")
        alarms: dict[str, list[Answer]] = {}
        for answer in answers:
            _branches.inc(1, name, call, answer[1] or "refused")
            if answer[2] in ALARMS:
                alarms.setdefault(answer[2], []).append(answer)
        for code, some in alarms.items():  # a line per call, not per branch: whole batches may be contradicted
            _alarms.inc(len(some), name, code)
            first = transactions[some[0][0]]
            _log.error(
                "branches_contradicted",
                participant=name,
                call=call,
                code=code,
                count=len(some),
                first=first,
                message=some[0][3],
            )
        return reply_of(answers)


_made: dict[type, type] = {}


def participant_service(participant: type[Participant[P]]) -> type[ParticipantService[P]]:
    """The service class of a participant class; what `client(...)` is made for."""
    known = _made.get(participant)
    if known is None:
        package, _, name = participant.service.rpartition(".")
        known = _made[participant] = type(
            name,
            (ParticipantService,),
            {"__doc__": participant.__doc__, "__module__": participant.__module__},
            package=package,
            name=participant.service,
        )
    return known
