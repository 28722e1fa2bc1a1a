"""Calls to the cluster as a whole: one endpoint after the other, within one time, logged in.

An endpoint that hangs costs one attempt (0.3 s) and not the call; the next call goes to the endpoint that answered
last. Attempts grow once all endpoints were asked twice, so that a cluster that is slow rather than broken gets to
answer at last instead of being asked the same ever again.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from dougong.errors import Overloaded, Unavailable
from dougong.registry.etcd.endpoints import Endpoint, Stream, credentials
from dougong.registry.etcd.failures import NO_AUTH, Failed, Next
from dougong.registry.etcd.messages import Reply, login_request, read_login
from dougong.registry.etcd.settings import EtcdSettings

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

CALLS_MAX = 1_000
_PAUSE_S_MIN = 0.02
_PAUSE_S_MAX = 0.5
_DOUBLINGS_MAX = 32
_LOGINS_MAX = 3
_LOGIN_PATH = "/etcdserverpb.Auth/Authenticate"


class Answer(Generic[R]):
    """A reply, and whether an earlier attempt may have been carried out as well."""

    __slots__ = ("again", "reply")

    def __init__(self, reply: R, *, again: bool) -> None:
        self.reply = reply
        self.again = again


class Cluster:
    def __init__(self, settings: EtcdSettings, random: random_module.Random) -> None:
        self.settings = settings
        self.revision = 0
        """The highest that any reply told."""
        self.id = 0
        self.random = random
        tls = credentials(settings)
        self._endpoints = [Endpoint(address, tls) for address in settings.endpoints]
        self._current = random.randrange(len(self._endpoints))  # not everybody at the first
        self._token = ""
        self._login_lock = asyncio.Lock()
        self._calls = 0
        self._closed = False

    def closed(self) -> bool:
        return self._closed

    async def call(
        self, path: str, read: Callable[[bytes], R], request: bytes, *, until: float | None = None
    ) -> Answer[R]:
        """Ask until somebody answers, for `timeout_s` or `until` then by the loop's clock.

        Raises `Failed` for what the cluster refuses, `Unavailable` (`registry_unreachable`) when time is up.
        """
        unknown = False

        async def attempt(endpoint: Endpoint, timeout_s: float) -> Answer[R]:
            nonlocal unknown
            try:
                reply = read(await endpoint.unary(path, request, self._token, timeout_s))
            except Failed as failed:
                unknown |= failed.unknown
                raise
            self.note(reply)
            return Answer(reply, again=unknown)

        if self._calls >= CALLS_MAX:
            raise Overloaded(f"{self._calls} calls wait for etcd", code="registry_busy", retry_after_s=0.1)
        self._calls += 1
        try:
            return await self._attempts(attempt, until=until)
        except Unavailable as error:
            error.fields["outcome"] = "unknown" if unknown else "not_done"
            raise
        finally:
            self._calls -= 1

    async def stream(self, path: str, request: bytes) -> Stream:
        """A stream at the first endpoint that takes it."""
        return await self._attempts(lambda endpoint, timeout_s: endpoint.stream(path, request, self._token, timeout_s))

    def note(self, reply: Reply) -> None:
        """Learn what a reply says about the store."""
        if reply.revision:
            self.revision = reply.revision if reply.cluster != self.id else max(self.revision, reply.revision)
            self.id = reply.cluster

    def avoid(self, address: str) -> None:
        """Somebody found this endpoint silent: the next call starts elsewhere."""
        if self._endpoints[self._current].address == address:
            self._current = (self._current + 1) % len(self._endpoints)

    async def close(self) -> None:
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.close()

    async def login(self, refused: str | None = None) -> None:
        """Get a token, unless somebody else got one since `refused` was refused."""
        settings = self.settings
        if not settings.user:
            return
        request = login_request(settings.user, settings.password)

        async def attempt(endpoint: Endpoint, timeout_s: float) -> str:
            return read_login(await endpoint.unary(_LOGIN_PATH, request, "", timeout_s)).token

        async with self._login_lock:
            if refused is not None and refused != self._token:
                return
            try:
                self._token = await self._attempts(attempt, login=False)
            except Failed as failed:
                if NO_AUTH not in failed.text:
                    raise
                self._token = ""

    @property
    def token(self) -> str:
        return self._token

    async def _attempts(
        self, attempt: Callable[[Endpoint, float], Awaitable[T]], *, login: bool = True, until: float | None = None
    ) -> T:
        loop = asyncio.get_running_loop()
        settings = self.settings
        if until is None:
            until = loop.time() + settings.timeout_s
        tried = logins = 0
        while True:
            self.check_open()
            index = self._current
            endpoint = self._endpoints[index]
            rounds = min(_DOUBLINGS_MAX, tried // len(self._endpoints))
            timeout_s = max(0.01, min(settings.attempt_s * 2 ** max(0, rounds - 1), until - loop.time()))
            token = self._token
            try:
                return await attempt(endpoint, timeout_s)
            except Failed as failed:
                if failed.next is Next.LOGIN and login and settings.user and logins < _LOGINS_MAX:
                    logins += 1
                    await self.login(token)
                    continue
                if failed.next is not Next.ELSEWHERE:
                    raise
                last = failed
            self.check_open()
            if self._current == index:  # else somebody moved on already
                self._current = (index + 1) % len(self._endpoints)
            tried += 1
            pause_s = 0.0
            if tried % len(self._endpoints) == 0:
                pause_s = min(_PAUSE_S_MAX, _PAUSE_S_MIN * 2**rounds) * self.random.uniform(0.5, 1.0)
            if loop.time() + pause_s >= until:
                raise Unavailable(
                    f"no etcd endpoint answered within {settings.timeout_s} s "
                    f"({', '.join(settings.endpoints)}); last: {last}",
                    code="registry_unreachable",
                ) from None
            await asyncio.sleep(pause_s)

    def check_open(self) -> None:
        if self._closed:
            raise Unavailable("the etcd registry is closed", code="closed")
