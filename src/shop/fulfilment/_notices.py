"""Notices to customers: of each change of an order's state that they want to hear of.

They are enqueued in the transaction that writes the changes down, many to a job, so each change has one notice,
whatever is killed and however often it is told. A notice may be sent twice when a process dies right after sending, as
letters may; `Sender` gets a key, by which the receiving side can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from dougong.errors import Error
from dougong.jobs import Backoff, Jobs, NewJob, job, needs
from dougong.telemetry import get_logger
from shop.orders import OrderState

__all__ = ["LogSender", "Notice", "Sender", "notices", "notify"]

log = get_logger(__name__)

_TOGETHER = 100
_WORDS = {
    OrderState.SHIPPED: "your order is on its way",
    OrderState.LOST: "your parcel was lost; its price is given back",
    OrderState.CANCELLED: "your order was cancelled",
}


class Notice(msgspec.Struct, frozen=True):
    """One customer is to hear of one change."""

    order_id: int
    state: OrderState

    @property
    def key(self) -> str:
        return f"{self.order_id}-{self.state.value}"


class Sender(Protocol):
    """Who brings notices to customers: e-mail, a telephone, a log."""

    async def send(self, key: str, order_id: int, text: str) -> None:
        """Raises when it should be tried again."""


class LogSender:
    """Writes them into the log."""

    async def send(self, key: str, order_id: int, text: str) -> None:
        log.debug("notice", key=key, order=order_id, text=text)


@job(queue="notices", priority=7, retries=8, backoff=Backoff(first_s=5.0), timeout_s=300)
async def notify(notices: list[Notice], sender: Sender = needs(Sender), jobs: Jobs = needs(Jobs)) -> None:
    """Tell the customers. Of several, those who cannot be reached get jobs of their own, with attempts of their own."""
    missed: list[Notice] = []
    for notice in notices:
        try:
            await sender.send(notice.key, notice.order_id, _WORDS[notice.state])
        except Error:
            if len(notices) == 1:
                raise
            missed.append(notice)
    if missed:
        await jobs.enqueue_many([notify.call([notice]) for notice in missed])


def notices(changes: Iterable[tuple[int, OrderState]]) -> list[NewJob]:
    """What customers hear of orders that came to these states."""
    told = [Notice(order_id, state) for order_id, state in changes if state in _WORDS]
    return [notify.call(told[first : first + _TOGETHER]) for first in range(0, len(told), _TOGETHER)]
