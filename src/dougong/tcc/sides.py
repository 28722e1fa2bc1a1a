"""A run seen from each participant: what it is asked for, in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from zlib import crc32

import msgspec

from dougong.errors import Invalid
from dougong.tcc.transaction import NewTransaction
from dougong.tcc.wire import ITEMS_MAX

__all__ = ["Side", "digests_of", "initiator_of", "sides_of"]

_encode = msgspec.msgpack.Encoder().encode


class Side(msgspec.Struct, frozen=True):
    """One participant's part of a run."""

    positions: Sequence[int]
    """Which of the run's transactions, by position."""
    items: list[tuple[int, bytes]]
    """(transaction, payload)."""


def sides_of(transactions: Sequence[NewTransaction], participants: Collection[str]) -> dict[str, Side]:
    """What each participant is asked for, participants in order of name. `Invalid` for what cannot be run."""
    count = len(transactions)
    if count > ITEMS_MAX:
        raise Invalid(f"{count} transactions in one run; at most {ITEMS_MAX}", code="too_many_transactions")
    ids = [t.id for t in transactions]
    if len(set(ids)) < count or min(ids) < 1 or max(ids) >= 1 << 63:
        raise Invalid("transaction ids are distinct and between 1 and 2^63-1", code="bad_transaction_id")
    names = transactions[0].branches.keys()
    if all(t.branches.keys() == names for t in transactions):
        positions: dict[str, Sequence[int]] = dict.fromkeys(names, range(count))
    else:
        lists: dict[str, list[int]] = {}
        for i, t in enumerate(transactions):
            for name in t.branches:
                lists.setdefault(name, []).append(i)
        positions = dict(lists)
    unknown = sorted(set(positions) - set(participants))
    if unknown:
        raise Invalid(
            f"no participant {unknown[0]!r}; this coordinator has {sorted(participants)}", code="unknown_participant"
        )
    if not all(t.branches for t in transactions):
        raise Invalid("a transaction needs at least one branch", code="no_branches")
    return {
        name: Side(positions[name], [(ids[i], _encode(transactions[i].branches[name])) for i in positions[name]])
        for name in sorted(positions)
    }


def initiator_of(initiator: str, branch: str) -> str:
    """As whom a participant knows the initiator on a branch: under `Wallets.service + "#payee"` it is `orders#payee`.

    So the branches of one transaction at one participant have fence rows of their own, and are tried, confirmed and
    cancelled each for itself.
    """
    _, mark, label = branch.partition("#")
    return f"{initiator}{mark}{label}"


def digests_of(count: int, sides: dict[str, Side]) -> list[int]:
    """A checksum of each transaction's payloads, to tell a repeat from another transaction under the same id."""
    digests = [0] * count
    for side in sides.values():
        for i, (_, payload) in zip(side.positions, side.items, strict=True):
            digests[i] = crc32(payload, digests[i])
    return digests
