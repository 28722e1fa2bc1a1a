"""How a bucket is moved: what whoever moves it may say beforehand."""

from __future__ import annotations

import msgspec

__all__ = ["MoveSettings"]


class MoveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How gently, and how patiently."""

    piece_s: float = 0.02
    """How long one piece of work may take: who writes may wait so long behind it."""
    share: float = 0.6
    """Of the time that is worked; the rest is left to others."""
    lag_max: int = 64
    """Notes of a table that may be left when the bucket is fenced."""
    rounds_max: int = 200
    """Rounds of catching up in which it does not get closer, before it is given up as too busy."""
    fence_s: float = 1.0
    """The longest time without writes; then the source serves again, and the switch is tried once more, later."""
    fences_max: int = 10
    routers_s: float = 15.0
    """How long routers that watch the map may be behind before a switch; the dead are not counted after their lease."""
    verify: bool = True
    """Compare all rows before the switch."""
    patience_s: float = 60.0
    """How long databases may be away before the mover gives up. The move can be resumed."""
    leave: frozenset[str] = frozenset()
    """Tables that stay where they are, as they have no buckets."""
