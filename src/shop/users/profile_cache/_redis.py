"""The cache that processes share: Redis, as long as it is quicker than the database.

Two keys per entry: `prefix:{key}` holds value and cost, `prefix:{key}:lease` the token of the last lease and when it
was taken, by the clock of Redis. The braces keep both on one node where keys are spread over several.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, cast

import msgspec
from redis import exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from dougong.breaker import Breaker, BreakerPolicy
from dougong.clock import Clock
from dougong.errors import Internal, Unavailable
from dougong.telemetry import counter, get_logger, histogram
from shop.users.profile_cache._cache import VALUE_BYTES_MAX, Entry, check_size
from shop.users.profile_cache._redis_url import RedisOptions

__all__ = ["RedisCache"]

log = get_logger(__name__)

_seconds = histogram("shop_profile_cache_redis_seconds", "How long Redis took to answer.")
_skipped = counter(
    "shop_profile_cache_skipped_total", "Calls to Redis not made: it had not answered, or too many waited."
)

PATIENT_S = 2.0
"""For starting and stopping, when nobody waits for an answer."""
OWED_MAX = 10_000
STORED_BYTES_MAX = VALUE_BYTES_MAX + 64
"""A value with its cost."""

# What is longer than anything of ours is not even read, nor what has no end: somebody else wrote that.
_GET = """
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then return {'', -1} end
local stored = redis.call('GET', KEYS[1])
return stored and {stored, redis.call('PTTL', KEYS[1])}
"""

_NOW_MS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_LEASE = f"""{_NOW_MS}
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. string.format('%.0f', now_ms), 'PX', ARGV[2])
"""

# The end is counted from the lease, so that a load, however slow, and a command that waited in a socket make no entry
# older than its time. `min`: the clock may have been set back.
_PUT = f"""{_NOW_MS}
local token, since_ms = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
if token ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
local left_ms = math.min(since_ms + ARGV[3] - now_ms, tonumber(ARGV[3]))
if left_ms <= 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', string.format('%.0f', left_ms))
return 1
"""


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    value: bytes
    cost_s: float


_decoder = msgspec.msgpack.Decoder(_Stored)


class RedisCache:
    """Raises `Unavailable` when no connection is free or Redis does not answer within `timeout_s`, connecting included,
    and at once while it is left alone for not having answered. `timeout_s` is some hundred times what Redis needs next
    door, and about what a busy database takes: to wait for longer would make a cache slower than none.

    A `forget` that failed is owed: this process takes nothing from before it, and makes up for it when the key is next
    asked for. Other processes may see the old entry until its time is over.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Clock,
        *,
        prefix: str,
        timeout_s: float = 0.05,
        max_connections: int = 16,
        lease_s: float = 60.0,
        breaker: BreakerPolicy = BreakerPolicy(),  # noqa: B008 (frozen)
    ) -> None:
        self._where = options.where
        self._clock = clock
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._lease_ms = math.ceil(lease_s * 1000)
        self._breaker = Breaker(breaker)
        self._owed: OrderedDict[str, object] = OrderedDict()
        self._redis = Redis.from_pool(_pool(options, max_connections))
        self._free = asyncio.Semaphore(max_connections)  # redis-py's own waiting loses wake-ups when callers give up
        self._get = self._redis.register_script(_GET)
        self._lease = self._redis.register_script(_LEASE)
        self._put = self._redis.register_script(_PUT)

    async def start(self) -> None:
        """Connect. That nobody answers is told and is no reason not to start."""
        try:
            await self._call(self._redis.ping, PATIENT_S)
        except Unavailable as error:
            log.warning("the database is asked for profiles until Redis answers", error=error.message)

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(PATIENT_S):
                await self._redis.aclose()
        except (OSError, exceptions.RedisError) as error:
            log.warning("connections to Redis did not close in order", redis=self._where, error=str(error))

    async def get(self, key: str) -> Entry | None:
        if key in self._owed:
            await self.forget(key)
            return None
        keys = self._keys(key)
        reply = await self._call(lambda: self._get(keys=keys[:1], args=[STORED_BYTES_MAX]))
        if reply is None:
            return None
        packed, left_ms = cast(tuple[bytes, int], reply)
        try:
            stored = _decoder.decode(packed) if left_ms >= 0 else None
        except msgspec.MsgspecError:
            stored = None
        if stored is None:
            raise Internal(f"what Redis has under {keys[0]} is none of ours; it is replaced", code="cache_garbage")
        return Entry(stored.value, left_ms / 1000, stored.cost_s)

    async def lease(self, key: str) -> int:
        if key in self._owed:
            await self.forget(key)
        token = secrets.randbits(62)  # not counted: a Redis that starts anew would give the same number twice
        await self._call(lambda: self._lease(keys=self._keys(key), args=[token, self._lease_ms]))
        return token

    async def put(self, key: str, value: bytes, lease: int, *, ttl_s: float, cost_s: float) -> bool:
        check_size(key, value)
        if key in self._owed:
            return False  # the lease is from before the write, or `lease` would have seen to it
        stored = msgspec.msgpack.encode(_Stored(value, cost_s))
        ttl_ms = math.ceil(ttl_s * 1000)
        return await self._call(lambda: self._put(keys=self._keys(key), args=[lease, stored, ttl_ms])) == 1

    async def forget(self, key: str) -> None:
        mine = self._owed[key] = object()  # now: it may be cancelled, and then nobody knows what Redis did
        if len(self._owed) > OWED_MAX:
            self._owed.popitem(last=False)  # old until its time is over, as for other processes
        await self._call(lambda: self._redis.delete(*self._keys(key)))
        if self._owed.get(key) is mine:  # not when there was another write meanwhile, whose `forget` may fail
            del self._owed[key]

    def _keys(self, key: str) -> list[str]:
        entry = f"{self._prefix}:{{{key}}}"
        return [entry, f"{entry}:lease"]

    async def _call(self, command: Callable[[], Awaitable[object]], timeout_s: float | None = None) -> object:
        if timeout_s is None:
            timeout_s = self._timeout_s
        await self._turn(timeout_s)
        try:
            return await self._asked(command, timeout_s)
        finally:
            self._free.release()

    async def _turn(self, timeout_s: float) -> None:
        """Wait for a connection to be free. That it takes too long is the crowd's fault and not Redis's."""
        try:
            async with asyncio.timeout(timeout_s) if self._free.locked() else nullcontext():
                await self._free.acquire()
        except TimeoutError:
            _skipped.inc()
            raise Unavailable(f"too many calls wait for Redis at {self._where}", code="cache_busy") from None

    async def _asked(self, command: Callable[[], Awaitable[object]], timeout_s: float) -> object:
        started = self._clock.monotonic()
        ticket = self._breaker.admit(started)
        if ticket is None:
            _skipped.inc()
            raise Unavailable(f"Redis at {self._where} did not answer and is left alone", code="breaker_open")
        try:
            async with asyncio.timeout(timeout_s):
                reply = await command()
        except exceptions.ResponseError as error:
            self._answered()
            if isinstance(error, exceptions.ReadOnlyError):  # another is master now; its name may lead there already
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise Unavailable(f"Redis at {self._where} refuses: {error}", code="cache_refused") from error
        except Exception as error:
            if self._breaker.failed(ticket, self._clock.monotonic()):
                log.warning("Redis does not answer and is left alone for a while", redis=self._where)
            what = str(error) or type(error).__name__
            raise Unavailable(f"Redis at {self._where} does not answer: {what}", code="cache_unavailable") from error
        self._answered()
        _seconds.observe(self._clock.monotonic() - started)
        return reply

    def _answered(self) -> None:
        if self._breaker.succeeded():
            log.info("Redis answers again", redis=self._where)


def _login(options: RedisOptions) -> UsernamePasswordCredentialProvider | None:
    """As an object: some versions of redis-py show a password that they got as an argument."""
    if not options.user and not options.password:
        return None
    return UsernamePasswordCredentialProvider(options.user or None, options.password.reveal() or None)


def _pool(options: RedisOptions, max_connections: int) -> ConnectionPool:
    tls: dict[str, Any] = {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": options.tls_ca or None,
    }
    return ConnectionPool(
        connection_class=SSLConnection if options.tls else Connection,
        max_connections=max_connections,
        host=options.host,
        port=options.port,
        db=options.database,
        credential_provider=_login(options),
        socket_timeout=PATIENT_S,  # `_call` ends sooner
        socket_connect_timeout=PATIENT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # who fails asks the database
        protocol=2,  # with 3, redis-py waits for notes about maintenance and takes dead connections for living ones
        **(tls if options.tls else {}),
    )
