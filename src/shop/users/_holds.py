"""Users' part in an order: freeze the customer's money, then spend it or give it back.

As in inventory, a batch reads each wallet once, decides in memory and writes one delta per wallet. It runs once in each
database of the user centre, for the orders of the customers there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dougong.store import Row, Tx
from dougong.tcc import Hold, Participant, Refusal
from shop.users._contract import Charge

__all__ = ["WalletHolds"]

_AT_ONCE = 512
"""Wallets asked for in one statement."""


class WalletHolds(Participant[Charge], service="shop.v1.WalletHolds", payload=Charge):
    """Freeze on try: available → frozen. Confirm: frozen → spent. Cancel: frozen → available.

    A negative amount is a refund: nothing happens on try or cancel; on confirm spent → available.
    """

    def key(self, payload: Charge) -> int:
        """The wallet, in the bucket of its user, with which the ids of orders end."""
        return payload.user_id

    async def try_(self, tx: Tx, holds: Sequence[Hold[Charge]]) -> Sequence[Refusal | None]:
        wallets = await _wallets(tx, {hold.payload.user_id for hold in holds})
        taken: defaultdict[int, int] = defaultdict(int)
        answers: list[Refusal | None] = []
        for hold in holds:
            charge = hold.payload
            wallet = wallets.get(charge.user_id)
            answers.append(_refusal(charge, wallet))
            if answers[-1] is None and wallet is not None and charge.amount_minor > 0:
                wallets[charge.user_id] = (wallet[0] - charge.amount_minor, wallet[1])
                taken[charge.user_id] += charge.amount_minor
        await tx.execute_many(
            "UPDATE wallets SET available = available - ?, frozen = frozen + ? WHERE user_id = ?",
            [(amount, amount, user_id) for user_id, amount in taken.items()],
        )
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Charge]]) -> None:
        spent, refunded = _sums(holds)
        await tx.execute_many(
            "UPDATE wallets SET frozen = frozen - ?, spent = spent + ? WHERE user_id = ?",
            [(amount, amount, user_id) for user_id, amount in spent.items()],
        )
        await tx.execute_many(
            "UPDATE wallets SET spent = spent - ?, available = available + ? WHERE user_id = ?",
            [(amount, amount, user_id) for user_id, amount in refunded.items()],
        )

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Charge]]) -> None:
        released, _ = _sums(holds)
        await tx.execute_many(
            "UPDATE wallets SET frozen = frozen - ?, available = available + ? WHERE user_id = ?",
            [(amount, amount, user_id) for user_id, amount in released.items()],
        )


def _refusal(charge: Charge, wallet: tuple[int, str] | None) -> Refusal | None:
    if wallet is None:
        return Refusal(code="unknown_user", message=f"user {charge.user_id} has no wallet")
    available, currency = wallet
    if charge.currency != currency:
        return Refusal(code="currency_mismatch", message=f"the order is in {charge.currency}, the wallet in {currency}")
    if charge.amount_minor > available:
        return Refusal(
            code="insufficient_funds",
            message=f"{charge.amount_minor} {currency} (minor units) wanted, {available} available",
        )
    return None


async def _wallets(tx: Tx, user_ids: set[int]) -> dict[int, tuple[int, str]]:
    ids = sorted(user_ids)
    rows: list[Row] = []
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))  # few different statements
        marks = ", ".join("?" * len(part))
        rows += await tx.fetch_all(f"SELECT user_id, available, currency FROM wallets WHERE user_id IN ({marks})", part)  # noqa: S608 (marks)
    return {user_id: (available, currency) for user_id, available, currency in rows}  # type: ignore[misc]


def _sums(holds: Sequence[Hold[Charge]]) -> tuple[dict[int, int], dict[int, int]]:
    """Per user: how much was frozen, and how much is refunds."""
    frozen: defaultdict[int, int] = defaultdict(int)
    refunded: defaultdict[int, int] = defaultdict(int)
    for hold in holds:
        amount = hold.payload.amount_minor
        if amount > 0:
            frozen[hold.payload.user_id] += amount
        else:
            refunded[hold.payload.user_id] -= amount
    return frozen, refunded
