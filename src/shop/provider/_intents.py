"""What was asked for, paid, voided and refunded; and which events the shop has to be told."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Books", "Event", "Intent", "Intents", "NewIntent", "NewRefund", "Refund", "Refused", "Status"]

INTENTS_MAX = 1_000_000


class Status(StrEnum):
    """Where a payment stands. All but `open` are final."""

    OPEN = "open"
    PAID = "paid"
    DECLINED = "declined"
    VOIDED = "voided"


class NewIntent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shop wants to be paid."""

    amount_minor: Annotated[int, Meta(ge=1, le=10**15)]
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
    reference: Annotated[str, Meta(min_length=1, max_length=64)]
    """The shop's own word for it."""
    webhook_url: Annotated[str, Meta(max_length=500, pattern=r"^https?://[^\s]+$(?!\n)")]


class Intent(msgspec.Struct):
    """A payment."""

    id: str
    reference: str
    amount_minor: int
    currency: str
    status: Status = Status.OPEN
    refunded_minor: int = 0


class NewRefund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shop gives back."""

    intent: str
    amount_minor: Annotated[int, Meta(ge=1, le=10**15)]


class Refund(msgspec.Struct, frozen=True):
    """Money given back."""

    id: str
    intent: str
    amount_minor: int


class Event(msgspec.Struct, frozen=True):
    """What a webhook says."""

    id: str
    type: str
    created_s: int
    intent: Intent
    """As it was then."""


class Books(msgspec.Struct, frozen=True):
    """What the provider has of a shop's money, in minor units."""

    intents: int
    paid_minor: int
    refunded_minor: int


class Refused(Exception):
    """The answer is no; `status` as in HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Intents:
    """All payments of one shop. Methods that change one return the events that follow."""

    def __init__(self) -> None:
        self._intents: dict[str, Intent] = {}
        self._wanted: dict[str, NewIntent] = {}
        """Intent → how it was asked for."""
        self._by_key: dict[str, tuple[msgspec.Struct, Intent | Refund]] = {}
        """Idempotency key → the request and its answer."""
        self._numbers = itertools.count(1)

    def create(self, key: str, wanted: NewIntent) -> Intent:
        """A new intent, or the one this key made before."""
        known = self._known(key, wanted)
        if isinstance(known, Intent):
            return known
        if len(self._intents) >= INTENTS_MAX:
            raise Refused(503, "full", f"{INTENTS_MAX} intents are as many as fit")
        made = Intent(f"pi_{next(self._numbers)}", wanted.reference, wanted.amount_minor, wanted.currency)
        self._intents[made.id] = made
        self._wanted[made.id] = wanted
        self._by_key[key] = (wanted, made)
        return made

    def find(self, id_: str) -> Intent:
        """The intent of that id."""
        found = self._intents.get(id_)
        if found is None:
            raise Refused(404, "unknown_intent", f"there is no intent {id_!r}")
        return found

    def webhook_url(self, id_: str) -> str:
        """Where an intent's events go."""
        return self._wanted[id_].webhook_url

    def pay(self, id_: str, now_s: int) -> list[Event]:
        """The customer pays. Again, it is paid already."""
        intent = self._open(id_, Status.PAID)
        if intent is None:
            return []
        first = self._event("intent.processing", intent, now_s)
        intent.status = Status.PAID
        return [first, self._event("intent.paid", intent, now_s)]

    def decline(self, id_: str, now_s: int) -> list[Event]:
        """The customer, or their bank, says no."""
        return self._end(id_, Status.DECLINED, now_s)

    def void(self, id_: str, now_s: int) -> list[Event]:
        """The shop wants it no more. Refused when it is paid."""
        return self._end(id_, Status.VOIDED, now_s)

    def refund(self, key: str, wanted: NewRefund, now_s: int) -> tuple[Refund, list[Event]]:
        """Give money back, once per key."""
        known = self._known(key, wanted)
        if isinstance(known, Refund):
            return known, []
        intent = self.find(wanted.intent)
        if intent.status is not Status.PAID:
            raise Refused(409, "not_paid", f"intent {intent.id} is {intent.status}: there is nothing to give back")
        if intent.refunded_minor + wanted.amount_minor > intent.amount_minor:
            raise Refused(
                409, "refund_too_large", f"of intent {intent.id} {intent.refunded_minor} are refunded already"
            )
        intent.refunded_minor += wanted.amount_minor
        made = Refund(f"re_{next(self._numbers)}", intent.id, wanted.amount_minor)
        self._by_key[key] = (wanted, made)
        return made, [self._event("refund.succeeded", intent, now_s)]

    def books(self) -> Books:
        """Added up."""
        return Books(
            len(self._intents),
            sum(i.amount_minor for i in self._intents.values() if i.status is Status.PAID),
            sum(i.refunded_minor for i in self._intents.values()),
        )

    def by_reference(self) -> Mapping[str, list[Intent]]:
        """All intents, by the shop's word for them."""
        found: dict[str, list[Intent]] = {}
        for intent in self._intents.values():
            found.setdefault(intent.reference, []).append(intent)
        return found

    def _end(self, id_: str, status: Status, now_s: int) -> list[Event]:
        intent = self._open(id_, status)
        if intent is None:
            return []
        intent.status = status
        return [self._event(f"intent.{status}", intent, now_s)]

    def _open(self, id_: str, wanted: Status) -> Intent | None:
        """The intent if it is open; None if it is as wanted already."""
        intent = self.find(id_)
        if intent.status is wanted:
            return None
        if intent.status is not Status.OPEN:
            raise Refused(409, f"already_{intent.status}", f"intent {id_} is {intent.status} already")
        return intent

    def _known(self, key: str, wanted: msgspec.Struct) -> Intent | Refund | None:
        if not key or len(key) > 128:
            raise Refused(400, "no_key", "an Idempotency-Key of 1 to 128 characters is needed")
        if key not in self._by_key:
            return None
        first, answer = self._by_key[key]
        if first != wanted:
            raise Refused(409, "key_reused", f"key {key!r} was used for another request")
        return answer

    def _event(self, kind: str, intent: Intent, now_s: int) -> Event:
        return Event(f"evt_{next(self._numbers)}", kind, now_s, msgspec.structs.replace(intent))
