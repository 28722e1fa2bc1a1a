"""What the payment provider tells us: taken for true when it is signed, and for new when it is."""

from __future__ import annotations

import msgspec

from dougong.clock import Clock
from dougong.contract import Service, rpc
from dougong.errors import Invalid
from shop.orders._contract import Webhook, WebhookHeard
from shop.orders._desk import Desk
from shop.orders._provider import Intent
from shop.orders._settings import OrdersSettings
from shop.orders._signature import check_signature
from shop.orders._till import Till

__all__ = ["Payments"]


class _Event(msgspec.Struct, frozen=True):
    """As much of it as concerns us; providers add fields as they like."""

    id: str
    type: str
    intent: Intent


_decode = msgspec.json.Decoder(_Event).decode


class Payments(Service, package="shop.v1"):
    """Payments that are made elsewhere."""

    def __init__(self, clock: Clock, till: Till, desk: Desk, settings: OrdersSettings) -> None:
        self._clock = clock
        self._desk = desk
        self._secrets = settings.webhook_secrets
        self._heard = {
            "intent.paid": till.paid,
            "intent.declined": till.declined,
            "intent.voided": till.voided,
            "refund.succeeded": till.refunded,
        }

    @rpc(http="POST /v1/payments/webhook", public=True, timeout_s=5.0)
    async def hear(self, request: Webhook) -> WebhookHeard:
        """The payment provider's webhook. What is not answered with 200 is to be sent again."""
        check_signature(request.signature, request.body, self._secrets, self._clock.now_us() / 1e6)
        try:
            event = _decode(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"the webhook is signed, and no event: {error}", code="malformed_event") from error
        if not 0 < len(event.id) <= 128:
            raise Invalid("an event's id has 1 to 128 characters", code="malformed_event", field="id")
        act = self._heard.get(event.type)
        if act is None or not await act(event.intent, event.id):
            return WebhookHeard(outcome="nothing_new")
        self._desk.wake()
        return WebhookHeard(outcome="done")
