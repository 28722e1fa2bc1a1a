"""Transactions over services that each own their database: try, confirm, cancel.

The one idea: **reserve first, then decide once, then tell.** Try reserves at every participant (frozen stock, frozen
money); the decision is one row in the initiator's own database, written together with its business rows; Confirm and
Cancel are told until they are heard. All of it in batches, so that a transaction costs microseconds.

Over a sharded store, a participant's units run in each database for its own branches (decision 0026).

A participant writes three methods over lists:

    class Stock(Participant[Reserve], service="shop.v1.Stock", payload=Reserve):
        async def try_(self, tx, holds): ...      # reserve; None or a Refusal per hold
        async def confirm(self, tx, holds): ...   # make it final
        async def cancel(self, tx, holds): ...    # give it back

    service = ParticipantService(Stock(), store)  # served over rpc, or called directly

and never sees a repeated, late or contradictory call: the fence, a table beside its own, answers those. An initiator
runs transactions:

    coordinator = Coordinator(store, initiator="orders", participants={Stock.service: service}, decide=write_decisions)
    await coordinator.start()
    outcomes = await coordinator.run([NewTransaction(1, {Stock.service: Reserve(...)})], begin=write_orders)

`begin` and `decide` write the initiator's rows in the very units that write the log, so that an order and its log never
disagree; after a crash, recovery calls the same `decide`. What a participant does not settle within the retry budget is
parked: visible, counted, and put back to work by `Operator.retry`.

It does not isolate: others see reserved stock as reserved. It does not roll back what was confirmed: a return is a new
transaction.
"""

from dougong.tcc._protocol import BranchState, Hold, Participant, Refusal, TransactionState
from dougong.tcc.coordinator import Coordinator
from dougong.tcc.fence_table import scope_number
from dougong.tcc.nested import NestedService
from dougong.tcc.operator import DeadLetter, Operator, Transaction
from dougong.tcc.participant import ParticipantService, participant_service
from dougong.tcc.settings import CoordinatorSettings, Triggers
from dougong.tcc.transaction import Decision, NewTransaction, Outcome, RetrySchedule
from dougong.tcc.wire import ParticipantClient

__all__ = [
    "BranchState",
    "Coordinator",
    "CoordinatorSettings",
    "DeadLetter",
    "Decision",
    "Hold",
    "NestedService",
    "NewTransaction",
    "Operator",
    "Outcome",
    "Participant",
    "ParticipantClient",
    "ParticipantService",
    "Refusal",
    "RetrySchedule",
    "Transaction",
    "TransactionState",
    "Triggers",
    "participant_service",
    "scope_number",
]
