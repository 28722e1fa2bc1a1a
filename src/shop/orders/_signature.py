"""Whether a webhook comes from the provider, and now: decided on its bytes, before anybody looks into them.

`Webhook-Signature: t=SECONDS,v1=HEX` is HMAC-SHA256 over `SECONDS.BODY`. The time is part of what is signed, so a
recorded webhook is worth nothing once the tolerance is over; within it, event ids make a repeat harmless. While a
secret is changed, either of two is right, on both sides: several `v1` may come, several secrets may be known.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from dougong.errors import Unauthenticated

__all__ = ["HEADER_LENGTH_MAX", "TOLERANCE_S", "check_signature"]

TOLERANCE_S = 300
"""How old, or how far ahead of our clock, a signature may be."""
HEADER_LENGTH_MAX = 512
_PARTS_MAX = 8
_REMEDY = "is the webhook secret the provider's?"


def check_signature(header: str, body: bytes, secrets: Sequence[str], now_s: float) -> None:
    """Return if one of `secrets` signed this body within the tolerance; raise `Unauthenticated` if not."""
    timestamp, signatures = _parse(header)
    signed = b"%d." % timestamp + body
    right = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        for signature in signatures:  # all of them, whatever was found: the time taken tells nothing
            right |= hmac.compare_digest(expected, signature)
    if not right:
        raise Unauthenticated(f"the webhook's signature is wrong; {_REMEDY}", code="bad_signature")
    if abs(now_s - timestamp) > TOLERANCE_S:
        raise Unauthenticated(
            f"the webhook was signed {now_s - timestamp:.0f} s ago, {TOLERANCE_S} are allowed; is a clock wrong?",
            code="stale_signature",
        )


def _parse(header: str) -> tuple[int, list[str]]:
    """(timestamp, signatures) of a header that may hold anything."""
    timestamp, signatures = -1, []
    parts = header.split(",", _PARTS_MAX) if len(header) <= HEADER_LENGTH_MAX and header.isascii() else []
    for part in parts[:_PARTS_MAX]:
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isdigit() and len(value) <= 12:
            timestamp = int(value)
        elif name == "v1":
            signatures.append(value)
    if timestamp < 0 or not signatures:
        raise Unauthenticated("the webhook is not signed: t=…,v1=… is expected", code="bad_signature")
    return timestamp, signatures
