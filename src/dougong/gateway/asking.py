"""Who asks, for what answers calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dougong.rpc import Caller

__all__ = ["Asker"]


class Asker(msgspec.Struct, frozen=True, gc=False):
    """A connection's other end."""

    user: str
    caller: Caller | None = None
    """When tokens say who connects."""
    ip: str = ""
    timeout_s: float = math.inf
    """What the call may take: its own limit, or what is left of the session."""
