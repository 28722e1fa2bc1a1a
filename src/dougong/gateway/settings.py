"""What can be set about a gateway."""

from __future__ import annotations

import msgspec

from dougong.gateway.connection import Patience
from dougong.gateway.frames import FrameLimits

__all__ = ["GatewaySettings"]


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and patience of one process."""

    path: str = "/live"
    """Where clients connect; anything else is 404."""
    origins: tuple[str, ...] = ()
    """Pages that may connect (`https://shop.example`); a browser always says whose page it is. Empty: any page, which
    is right when the page itself sends a token, and wrong with cookies."""
    frames: FrameLimits = FrameLimits()
    patience: Patience = Patience()
    connections_max: int = 18_000
    connections_per_ip_max: int = 10_000
    connections_per_user_max: int = 32
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose `X-Forwarded-For` is believed, so that limits by address hold behind a balancer."""
    handshakes_max: int = 1000
    """Under way at once."""
    handshakes_per_ip_max: int = 250
    """Of them from one address, so that nobody can have them all; not of `trusted_proxies`, but of those who they say
    it is."""
    topics_per_connection_max: int = 100
    join_timeout_s: float = 10.0
    """How long the fan-out may take to make somebody a member."""
    calls_per_connection_max: int = 16
    """That wait for something at once; while so many do, more calls are refused."""
    outbox_bytes_max: int = 256 * 1024
    """What may wait for one peer."""
    outboxes_bytes_max: int = 256 * 1024 * 1024
    """What may wait for all of them: over it, those for whom most waits are closed first."""
    memory_bytes_max: int = 0
    """Resident memory of the process over which nobody new is let in, and half of what waits is given up, the
    costliest first. 0 is no limit."""
    broadcast_slice: int = 1000
    """Members that are written to in one turn of the loop."""
    broadcasts_bytes_max: int = 64 * 1024 * 1024
    """What may wait for its turn. Beyond it members are told that some is lost, and ask for it by offset."""
    presence_term_s: int = 30
    """A process that is silent for so long is gone, and so are the users that it spoke for."""
    messages_per_s_max: float = 100.0
    """Of one connection, over ten seconds."""
    reconnect_s: float = 5.0
    """Who is asked to come again is told to wait for up to so long, by chance."""
