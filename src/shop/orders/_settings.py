"""What can be set for orders."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dougong.config import Secret

__all__ = ["OrdersSettings"]

Seconds = Annotated[float, Meta(gt=0, le=86_400 * 365)]


class OrdersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where external payments are made, and how long an order may stay in a state before something is done about it."""

    provider_url: str = ""
    """Base URL of the payment provider; empty: orders are paid from wallets only."""
    provider_key: Secret = Secret("")
    webhook_secret: Secret = Secret("")
    """What the provider signs its webhooks with."""
    webhook_secret_before: Secret = Secret("")
    """The one it used before, while it is being changed."""
    public_url: str = "http://127.0.0.1:8080"
    """Where the provider reaches our edge."""
    pay_within_s: Annotated[float, Meta(gt=0, le=86_400)] = 1800.0
    """How long stock is held for an external payment."""
    provider_timeout_s: Seconds = 3.0
    retry_s: Seconds = 30.0
    """Work that did not succeed (a refund, a cancellation) is tried again after so long, until it does."""
    ask_s: Seconds = 120.0
    """After so long without a word of a payment, the provider is asked."""
    history_s: Seconds = 60.0
    """How long transitions, and with them the ids of the provider's events, are kept after fulfilment has them."""
    confirmed_s: Seconds = 900.0
    """A confirmed order that nobody picks is announced again."""
    picking_s: Seconds = 3600.0
    """An order that is picked for longer goes back to be picked by somebody else."""
    shipped_s: Seconds = 7 * 86_400.0
    """A parcel that has not arrived by then is traced."""
    tracing_s: Seconds = 3 * 86_400.0
    """A parcel not found by then is lost, and its price is given back."""

    @property
    def webhook_secrets(self) -> list[str]:
        """Those that count now."""
        return [s.reveal() for s in (self.webhook_secret, self.webhook_secret_before) if s]
