"""A payment provider, played: somebody else's company, reached over HTTP and by no other way.

It does what real ones do, in miniature. A shop creates an *intent* (amount, currency, reference) under an idempotency
key and gets a URL; the customer pays or declines there; the provider tells the shop by signed webhooks, again and again
until it is heard; a shop can ask, void and refund. It can also be told to behave as badly as real ones do on their
worst days: webhooks twice, late, out of order, wrongly signed or never, refunds that answer 503.

    python -m shop.provider --port 8700 --key test-key --webhook-secret test-secret

What it knows it keeps in memory: it stands in for a company in tests and demonstrations, and holds no money.
"""

from shop.provider._behaviour import Behaviour
from shop.provider._intents import Books, Event, Intent, Intents, NewIntent, NewRefund, Refused, Status
from shop.provider._web import Provider, serving
from shop.provider._webhooks import signature

__all__ = [
    "Behaviour",
    "Books",
    "Event",
    "Intent",
    "Intents",
    "NewIntent",
    "NewRefund",
    "Provider",
    "Refused",
    "Status",
    "serving",
    "signature",
]
