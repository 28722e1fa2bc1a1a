"""The payment provider, as orders calls it: every call idempotent, with a deadline, and its faults in our own words."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dougong.errors import Conflict, Error, Internal, Overloaded, Unavailable
from shop.orders._settings import OrdersSettings

if TYPE_CHECKING:
    import aiohttp

__all__ = ["WEBHOOK_PATH", "Intent", "IntentStatus", "PaymentProvider"]

_T = TypeVar("_T")

ANSWER_BYTES_MAX = 64 * 1024
WEBHOOK_PATH = "/v1/payments/webhook"


class IntentStatus(StrEnum):
    """Where a payment stands with the provider."""

    OPEN = "open"
    PAID = "paid"
    DECLINED = "declined"
    VOIDED = "voided"


class Intent(msgspec.Struct, frozen=True):
    """A payment, as the provider describes it."""

    id: str
    reference: str
    status: IntentStatus
    amount_minor: int
    currency: str
    pay_url: str = ""


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class PaymentProvider:
    """Somebody else's company.

    Raises `Unavailable` when it cannot be asked (what it did then is unknown, and asking the same again is safe) and
    `Conflict` when it says no.
    """

    def __init__(self, settings: OrdersSettings) -> None:
        self._url = settings.provider_url.rstrip("/")
        self._key = settings.provider_key
        self._webhook_url = settings.public_url.rstrip("/") + WEBHOOK_PATH
        self._timeout_s = settings.provider_timeout_s
        self._http: aiohttp.ClientSession | None = None

    @property
    def configured(self) -> bool:
        """Whether there is one."""
        return bool(self._url)

    async def create(self, order_id: int, amount_minor: int, currency: str) -> Intent:
        """The payment for an order: made now, or by an earlier call."""
        body = {
            "amount_minor": amount_minor,
            "currency": currency,
            "reference": str(order_id),
            "webhook_url": self._webhook_url,
        }
        return await self._call("POST", "/v1/intents", Intent, body, key=f"order-{order_id}")

    async def ask(self, intent: str) -> Intent:
        """How it stands."""
        return await self._call("GET", f"/v1/intents/{intent}", Intent)

    async def void(self, intent: str) -> Intent:
        """It is not wanted any more; how it stands then, which may be paid."""
        try:
            return await self._call("POST", f"/v1/intents/{intent}/void", Intent)
        except Conflict:
            return await self.ask(intent)

    async def refund(self, order_id: int, intent: str, amount_minor: int) -> None:
        """Give an order's money back; once, however often it is asked for."""
        body = {"intent": intent, "amount_minor": amount_minor}
        await self._call("POST", "/v1/refunds", _Problem, body, key=f"refund-{order_id}")

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()

    async def _call(self, verb: str, path: str, kind: type[_T], body: object = None, *, key: str = "") -> _T:
        if not self._url:
            raise Unavailable("no payment provider is configured; set provider_url", code="no_provider")
        status, content = await self._exchange(verb, path, body, key)
        if status != 200:
            raise _error(status, content)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the payment provider's answer is none: {error}", code="provider_garbage") from error

    async def _exchange(self, verb: str, path: str, body: object, key: str) -> tuple[int, bytes]:
        """One request over HTTP; status and content of its answer. `Unavailable` when there is none."""
        import aiohttp  # here: it is 9 MB, and many processes only know the contract of orders

        if self._http is None:
            headers = {"Authorization": f"Bearer {self._key.reveal()}"}
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s), headers=headers)
        try:
            headers = {"Idempotency-Key": key} if key else {}
            async with self._http.request(verb, self._url + path, json=body, headers=headers) as answer:
                return answer.status, await answer.content.read(ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"the payment provider does not answer: {type(error).__name__}", code="provider_unavailable"
            ) from error


def _error(status: int, content: bytes) -> Error:
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem(message=content[:100].decode(errors="replace"))
    text = f"the payment provider answers {status}: {problem.code} {problem.message}"
    if status == 409:
        return Conflict(text, code="provider_refused")
    if status == 429:
        return Overloaded(text, code="provider_overloaded", retry_after_s=1.0)
    if status >= 500:
        return Unavailable(text, code="provider_unavailable")
    return Internal(text, code="provider_misused")
