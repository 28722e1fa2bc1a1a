"""Event data as the history keeps it."""

from __future__ import annotations

import msgspec

from dougong.errors import Invalid

__all__ = ["DATA_CHARS_MAX", "decoded", "encoded"]

DATA_CHARS_MAX = 4096

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.decode


def encoded(data: object) -> str | None:
    """JSON, the same for the same data; `Invalid` when it cannot be kept."""
    if data is None:
        return None
    try:
        text = _encode(data).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"event data cannot be kept as JSON: {error}", code="bad_event_data") from None
    if len(text) > DATA_CHARS_MAX:
        raise Invalid(
            f"event data is {len(text)} characters of JSON, more than {DATA_CHARS_MAX}; keep it in a table of your own",
            code="event_data_too_large",
        )
    return text


def decoded(text: str | None) -> object:
    """Plain values: dictionaries, lists, text, numbers."""
    return None if text is None else _decode(text)
