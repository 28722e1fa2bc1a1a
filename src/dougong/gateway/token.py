"""Who connects, by a token that the services believe, too.

Programs send it as `Authorization: Bearer TOKEN`. Browsers cannot set headers of a WebSocket: they offer it as a
subprotocol, `new WebSocket(url, ["dougong", "bearer." + token])`, or, where nobody logs addresses, as `?access_token=`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid
from dougong.gateway.doorway import Authenticate, Grant
from dougong.gateway.handshake import Upgrade

if TYPE_CHECKING:
    from dougong.rpc import Authenticator, Caller

__all__ = ["jwt_authenticate"]

_OFFERED = "bearer."


def _own_topic(caller: Caller) -> tuple[str, ...]:
    return (f"user:{caller.subject}",)


def jwt_authenticate(
    authenticator: Authenticator,
    *,
    topics: Callable[[Caller], Sequence[str]] = _own_topic,
    clock: Clock | None = None,
) -> Authenticate:
    """Believe whom `authenticator` believes; `topics` are subscribed from the start, by default the user's own.

    The session ends when the token expires. A browser has to offer a subprotocol beside the token: it is the one that
    is spoken, because browsers hang up when none is.
    """
    from dougong.rpc import token_expiry_us

    time = clock if clock is not None else SystemClock()

    async def authenticate(upgrade: Upgrade) -> Grant:
        authorization, protocol = _authorization(upgrade)
        caller = authenticator(authorization)
        ends_us = token_expiry_us(authorization.partition(" ")[2].strip())
        # The authenticator allows for clocks that differ; what it still believes has a moment left.
        left_s = max(1.0, (ends_us - time.now_us()) / 1e6) if ends_us else None
        return Grant(
            user=caller.subject, expires_in_s=left_s, topics=tuple(topics(caller)), protocol=protocol, caller=caller
        )

    return authenticate


def _authorization(upgrade: Upgrade) -> tuple[str, str | None]:
    offered = [name for name in upgrade.protocols if name.startswith(_OFFERED)]
    spoken = next((name for name in upgrade.protocols if not name.startswith(_OFFERED)), None)
    if offered and spoken is None:
        raise Invalid("offer a subprotocol beside the token: browsers insist on one", code="protocol_missing")
    header = upgrade.headers.get("authorization", "")
    if header:
        return header, spoken
    token = offered[0].removeprefix(_OFFERED) if offered else upgrade.query.get("access_token", "")
    return f"Bearer {token}" if token else "", spoken
