"""What a gateway says, as a client reads it; `messages` has the other side, and an example of each."""

from __future__ import annotations

import msgspec

from dougong.errors import Error, error_from
from dougong.gateway.history import Offset

__all__ = ["Answered", "Lost", "Refusal", "Said", "Subscribed", "Tell", "read_said"]


class Answered(msgspec.Struct, frozen=True, tag_field="kind", tag="answer"):
    id: int
    data: msgspec.Raw = msgspec.Raw(b"null")


class Refusal(msgspec.Struct, frozen=True, tag_field="kind", tag="refused"):
    id: int | None
    code: str
    message: str
    family: str = "internal"
    fields: dict[str, str | int | float | bool] = {}
    retry_after_s: float | None = None

    @property
    def error(self) -> Error:
        """As the gateway raised it."""
        return error_from(self.family, self.code, self.message, self.fields, self.retry_after_s)


class Subscribed(msgspec.Struct, frozen=True, tag_field="kind", tag="subscribed"):
    id: int
    topic: str
    offset: Offset
    complete: bool


class Tell(msgspec.Struct, frozen=True, tag_field="kind", tag="message"):
    topic: str
    data: msgspec.Raw
    offset: Offset | None = None


class Lost(msgspec.Struct, frozen=True, tag_field="kind", tag="lost"):
    topic: str


Said = Answered | Refusal | Subscribed | Tell | Lost
_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def read_said(data: bytes) -> Said | None:
    """A gateway's message; None for what only a newer client knows."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
