"""Who asks, for what answers calls: more than a user's name, and nobody has to pass it on."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dougong.rpc import Caller

__all__ = ["Asker", "current_asker", "enter_asker"]


class Asker(msgspec.Struct, frozen=True, gc=False):
    """A connection's other end."""

    user: str
    caller: Caller | None = None
    """When tokens say who connects."""
    ip: str = ""
    timeout_s: float = math.inf
    """What the call may take: its own limit, or what is left of the session."""


_NOBODY = Asker("")
_asker: ContextVar[Asker] = ContextVar("dougong_gateway_asker", default=_NOBODY)
current_asker = _asker.get
"""Who made the call that is answered now."""
enter_asker = _asker.set
"""For the rest of the current task, which answers one call."""
