"""When a client whose connection ended comes again, if at all. Decisions only: time and chance are passed in.

What would be refused again is not tried again: then there is an error that says what to do. All else is tried again,
at the time the server says, or after a pause that grows and is drawn by lot, so that those who were cut off together
do not come together (AWS Architecture Blog, "Exponential Backoff and Jitter": full jitter).
"""

from __future__ import annotations

import re

import msgspec

from dougong.errors import Error, Forbidden, Internal, Invalid, NotFound, Unauthenticated
from dougong.gateway.connection import SESSION_OVER
from dougong.gateway.frames import CloseCode

__all__ = ["Pauses", "Return", "after_close", "after_error"]

KICKED = 4002
_HINT = re.compile(r"\breconnect in ([0-9]{1,5}(?:\.[0-9]{1,3})?) s\b")
_OUR_FAULT = {CloseCode.PROTOCOL_ERROR, CloseCode.UNSUPPORTED, CloseCode.INVALID_TEXT, CloseCode.TOO_BIG}
_FINAL = (Invalid, Forbidden, NotFound, Unauthenticated)


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client waits before it comes again."""

    first_s: float = 0.5
    max_s: float = 30.0
    steady_s: float = 10.0
    """A connection that lasted so long was a good one: the next pause is short again."""


class Return(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now."""

    pause_s: float = 0.0
    renew: bool = False
    """With another token: this one is not believed any more."""
    error: Error | None = None
    """Do not come again; this is why."""


def after_close(code: int | None, reason: str, tries: int, chance: float, pauses: Pauses) -> Return:
    """The connection was open and ended; `code` None when it broke without a word. `tries` in a row were short."""
    if code == SESSION_OVER:
        return Return(renew=True, pause_s=_pause(tries, chance, pauses) if tries else 0.0)
    if code == KICKED:
        return Return(error=Forbidden(f"the gateway ended this connection: {reason}", code="kicked"))
    if code in _OUR_FAULT:
        return Return(error=Internal(f"the gateway did not understand us: {code} {reason}", code="protocol"))
    hint = _HINT.search(reason)
    if hint is not None:
        return Return(pause_s=min(float(hint[1]), pauses.max_s))
    return Return(pause_s=_pause(tries, chance, pauses))


def after_error(error: Error, tries: int, chance: float, pauses: Pauses, *, renewed: bool) -> Return:
    """No connection came about. `renewed`: the token was a new one, so that another will not help."""
    if isinstance(error, Unauthenticated) and not renewed:
        return Return(renew=True)
    if isinstance(error, _FINAL):
        return Return(error=error)
    pause_s = _pause(tries, chance, pauses)
    if error.retry_after_s is not None:
        pause_s = min(pauses.max_s, error.retry_after_s * (1 + chance))
    return Return(pause_s=pause_s)


def _pause(tries: int, chance: float, pauses: Pauses) -> float:
    return chance * min(pauses.max_s, pauses.first_s * float(1 << min(tries, 20)))
