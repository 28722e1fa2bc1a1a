"""How well the provider behaves today."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Behaviour"]


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The defaults are a good day. Applies to webhooks that are due from now on."""

    never: bool = False
    """No webhook is sent; the events are lost for good."""
    copies: Annotated[int, Meta(ge=1, le=20)] = 1
    """How often each event is delivered, at once, even when the first was heard."""
    reorder: bool = False
    """Events of one payment come last first."""
    late_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """How long an event waits before it is sent, with a signature of the moment it is sent."""
    stale_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """How old signatures are when they are sent."""
    wrong_signatures: Annotated[int, Meta(ge=0, le=1000)] = 0
    """So many attempts per event carry a signature by another secret."""
    refuse: tuple[str, ...] = ()
    """Operations that answer 503: `create`, `ask`, `void`, `refund`."""
    slow_s: Annotated[float, Meta(ge=0, le=600)] = 0.0
    """How long every operation of the shop's takes."""
