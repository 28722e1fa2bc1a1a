"""The token that a client sends: a text, or somebody who makes fresh ones."""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from dougong.clock import Clock, SystemClock
from dougong.errors import Error, Unavailable

__all__ = ["Credentials", "TokenProvider", "credentials", "current_authorization", "token_expiry_us"]

TokenProvider = Callable[[], "str | Awaitable[str]"]
"""Gives a token that is valid now."""

_OPAQUE_S = 60.0
"""How long a token is used that does not say when it expires."""
_EARLY_SHARE, _EARLY_S_MAX = 0.2, 30.0
"""So long before its end another is asked for."""
_PROVIDER_S = 5.0
_TOKEN_MAX = 16_384

_override: ContextVar[str] = ContextVar("dougong_credentials", default="")
current_authorization = _override.get
"""What calls send instead of their client's own; empty for that."""


class _Claims(msgspec.Struct):
    exp: float = 0.0


class Credentials:
    """What goes into the Authorization header, kept until shortly before it expires."""

    def __init__(self, token: str | TokenProvider, clock: Clock | None = None) -> None:
        self._provider: TokenProvider | None = None if isinstance(token, str) else token
        self._clock = clock if clock is not None else SystemClock()
        self.header = f"Bearer {token}" if isinstance(token, str) and token else ""
        """The latest, fresh or not."""
        self._fresh_until_us = 0
        self._ends_us = 0
        self._asking: asyncio.Task[None] | None = None

    @property
    def fresh(self) -> bool:
        """`header` may be sent as it is."""
        return self._provider is None or self._clock.now_us() < self._fresh_until_us

    async def get(self, end: float) -> str:
        """The header, asking the provider if need be: once, for all who want it.

        Raises `Unavailable` (`credentials_failed`) when it fails, takes more than 5 seconds or is not done by `end`,
        and the token from before has expired.
        """
        if self.fresh:
            return self.header
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        try:
            async with asyncio.timeout_at(end):
                await asyncio.shield(self._asking)
        except (Error, TimeoutError) as error:
            if self._clock.now_us() < self._ends_us:
                return self.header
            if isinstance(error, Error):
                raise
            raise _failed("it did not answer in time") from None
        return self.header

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # those who wait have it

    async def _ask(self) -> None:
        assert self._provider is not None
        try:
            async with asyncio.timeout(_PROVIDER_S):
                made = self._provider()
                token = await made if inspect.isawaitable(made) else made
        except Exception as error:
            raise _failed(f"{type(error).__name__}") from error
        if not isinstance(token, str) or not token or len(token) > _TOKEN_MAX or not token.isascii():
            raise _failed(f"it gave no token of 1 to {_TOKEN_MAX} ASCII characters")
        now_us = self._clock.now_us()
        ends_us = token_expiry_us(token) or now_us + round(_OPAQUE_S * 1e6)
        early_us = min((ends_us - now_us) * _EARLY_SHARE, _EARLY_S_MAX * 1e6)
        self.header, self._ends_us, self._fresh_until_us = f"Bearer {token}", ends_us, ends_us - round(early_us)


@contextmanager
def credentials(token: str) -> Generator[None]:
    """Calls made in the block send `token` in the place of their client's own; empty for that again."""
    reset = _override.set(f"Bearer {token}" if token else "")
    try:
        yield
    finally:
        _override.reset(reset)


def token_expiry_us(token: str) -> int:
    """What a JWT says of its own end, Unix time; 0 when it says nothing. For tokens that were believed before."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return 0
    return max(0, round(claims.exp * 1e6)) if claims.exp < 1e12 else 0


def _failed(reason: str) -> Unavailable:
    return Unavailable(
        f"no token to call with, nothing was sent: its provider failed ({reason})", code="credentials_failed"
    )
