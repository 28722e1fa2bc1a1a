"""Passwords: argon2id, off the event loop, a few at a time.

A hash takes tens of milliseconds and megabytes on purpose; two at once is what two cores can do, the rest wait in a
bounded line, so that a flood of log-ins cannot starve orders or memory.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import argon2

from dougong.errors import Overloaded

__all__ = ["Passwords"]

P = ParamSpec("P")
R = TypeVar("R")


class Passwords:
    """Hash and verify. `waiting_max` calls may wait; more are refused with `Overloaded`.

    The last quarter of the line is for those whom we know: strangers alone cannot fill it.
    """

    def __init__(self, *, threads: int = 2, waiting_max: int = 64) -> None:
        # RFC 9106's second recommended option (64 MiB) scaled to a service that shares its machine: OWASP's minimum.
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._waiting = 0
        self._waiting_max = waiting_max
        # Verifying against this when the user is unknown keeps the answer's time from telling whether one exists.
        self._nobody = self._hasher.hash("nobody's password")

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._run(False, self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str, *, known: bool = False) -> bool:
        """Whether the password is right; `stored` None for an unknown user: False, after the same work.

        `known`: who asks has been here before, so the whole line is open.
        """
        right = await self._run(known, self._verify, stored or self._nobody, password)
        return right and stored is not None

    def close(self) -> None:
        """Let running hashes finish and end the threads."""
        self._threads.shutdown()

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, known: bool, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._waiting >= self._waiting_max - (0 if known else self._waiting_max // 4):
            raise Overloaded("too many log-ins at once; try again shortly", code="login_overloaded", retry_after_s=1.0)
        self._waiting += 1
        try:
            work = functools.partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
