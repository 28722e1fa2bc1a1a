"""The cache in Redis when something is wrong: killed, hung, full, garbage, not reached. A real one of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis as Client
from structlog.testing import capture_logs
from tests import engines

from dougong.breaker import BreakerPolicy
from dougong.clock import Clock, ManualClock, SystemClock
from dougong.config import Secret, load
from dougong.errors import Internal, Invalid, Unavailable
from dougong.evidence.engines import PASSWORD, QUOTED, Redis, free_port
from shop.users import Profile, UsersSettings
from shop.users.profile_cache import CachedProfiles, open_cache
from shop.users.profile_cache._redis import RedisCache
from shop.users.profile_cache._redis_url import parse_redis_url

pytestmark = pytest.mark.processes

PATIENT_S = 60.0
SHORT_S = 0.2
"""For what is meant to run out."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Redis]:
    """A Redis of this module's own, to be hurt; each test leaves it running."""
    made = engines.make_redis()
    yield made
    made.remove()


class Cards:
    """Two users' processes over one Redis and one row; how often the row is read is counted."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.clock = ManualClock()
        self.prefix = secrets.token_hex(8)
        self.key = f"{self.prefix}:{{profile:1}}"
        self.name = "old"
        self.reads = 0
        self.made: list[RedisCache] = []
        self.admin = Client(host="127.0.0.1", port=redis.port, password=PASSWORD, socket_timeout=PATIENT_S)

    def cache(self, *, clock: Clock | None = None, **more: object) -> RedisCache:
        options = parse_redis_url(Secret(self.redis.url()))
        made = RedisCache(options, clock or self.clock, prefix=self.prefix, timeout_s=PATIENT_S, **more)  # type: ignore[arg-type]
        self.made.append(made)
        return made

    def profiles(self, cache: RedisCache) -> CachedProfiles:
        return CachedProfiles(cache, self.load, SystemClock(), ttl_s=600)

    async def load(self, user_id: int) -> Profile | None:
        self.reads += 1
        return Profile(user_id=str(user_id), email="a@x.example", name=self.name, role="customer", created_us=1)

    async def close(self) -> None:
        for cache in self.made:
            await cache.stop()
        await self.admin.aclose()


@pytest.fixture
async def cards(shared: Redis) -> AsyncIterator[Cards]:
    made = Cards(shared)
    yield made
    await made.close()


async def name_of(profiles: CachedProfiles) -> str:
    profile = await profiles.get(1)
    assert profile is not None
    return profile.name


async def keep(cache: RedisCache, value: bytes = b"x", key: str = "profile:1") -> None:
    assert await cache.put(key, value, await cache.lease(key), ttl_s=600, cost_s=0)


async def kept(cache: RedisCache, key: str = "profile:1") -> bytes | None:
    entry = await cache.get(key)
    return None if entry is None else entry.value


@contextmanager
def hung(redis: Redis, *caches: RedisCache) -> Generator[None]:
    """Redis hangs, and these caches wait for it as shortly as they do in production; at other times nobody is short of
    time because the machine is busy."""
    redis.pause()
    for cache in caches:
        cache._timeout_s = SHORT_S
    try:
        yield
    finally:
        redis.resume()
        for cache in caches:
            cache._timeout_s = PATIENT_S


async def failures(cache: RedisCache, times: int) -> list[str]:
    """What so many reads in a row say."""
    said = []
    for _ in range(times):
        try:
            await cache.get("profile:1")
            said.append("")
        except Unavailable as error:
            said.append(error.code)
    return said


# ------------------------------------------------------------------------------------------------- several processes


async def test_a_change_through_one_process_shows_at_once_in_another(cards: Cards) -> None:
    here, there = cards.profiles(cards.cache()), cards.profiles(cards.cache())
    assert [await name_of(here), await name_of(there), await name_of(there)] == ["old"] * 3
    assert cards.reads == 1  # one has loaded it for both
    cards.name = "new"
    await here.forget(1)
    assert [await name_of(there), await name_of(here)] == ["new", "new"]
    assert cards.reads == 2


async def test_systems_do_not_see_each_other(cards: Cards) -> None:
    await keep(cards.cache(), b"ours")
    other = Cards(cards.redis)
    assert await kept(other.cache()) is None
    await other.close()
    names = [name.decode() async for name in cards.admin.scan_iter(f"{cards.prefix}*")]
    assert names == [cards.key]
    assert 0 < await cards.admin.pttl(cards.key) <= 600_000


async def test_a_lease_that_nobody_used_goes_by_itself(cards: Cards) -> None:
    cache = cards.cache(lease_s=0.2)
    lease = await cache.lease("profile:1")
    async with asyncio.timeout(PATIENT_S):
        while await cards.admin.exists(f"{cards.key}:lease"):
            await asyncio.sleep(0.05)
    assert not await cache.put("profile:1", b"x", lease, ttl_s=600, cost_s=0)


# ----------------------------------------------------------------------------------------------------- killed, hung


async def test_a_redis_that_is_killed_is_used_again_when_it_is_back(cards: Cards) -> None:
    profiles = cards.profiles(cards.cache())
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    assert cards.reads == 1
    cards.redis.kill()
    try:
        for asked in range(10):
            assert await name_of(profiles) == "old"
            assert cards.reads == 2 + asked
        cards.name = "new"
        await profiles.forget(1)
        assert await name_of(profiles) == "new"
    finally:
        cards.redis.start()
    cards.clock.advance(60)
    reads = cards.reads
    assert [await name_of(profiles) for _ in range(3)] == ["new"] * 3
    assert cards.reads == reads + 1
    assert await cards.admin.exists(cards.key)


async def test_connections_that_died_meanwhile_are_not_errors(cards: Cards) -> None:
    cache = cards.cache()
    await asyncio.gather(*(cache.get(str(number)) for number in range(50)))
    cards.redis.kill()
    cards.redis.start()
    assert await asyncio.gather(*(cache.get(str(number)) for number in range(50))) == [None] * 50


async def test_a_redis_that_hangs_costs_a_few_timeouts_and_then_nothing(cards: Cards) -> None:
    cache = cards.cache()
    profiles = cards.profiles(cache)
    await keep(cache, b"x", "another")
    with hung(cards.redis, cache):
        with capture_logs() as lines:
            assert await failures(cache, 20) == ["cache_unavailable"] * 3 + ["breaker_open"] * 17
            assert await name_of(profiles) == "old"
        cards.clock.advance(1.1)
        assert await failures(cache, 20) == ["cache_unavailable"] + ["breaker_open"] * 19  # one at a time finds out
    assert [line["event"] for line in lines] == [
        "Redis does not answer and is left alone for a while",
        "the cache of profiles failed, the database is asked",  # once, not for each of the commands
    ]
    assert await failures(cache, 1) == ["breaker_open"]
    cards.clock.advance(2.1)
    with capture_logs() as lines:
        assert await kept(cache, "another") == b"x"
    assert [line["event"] for line in lines] == ["Redis answers again"]


async def test_without_a_breaker_each_read_costs_a_timeout(cards: Cards) -> None:
    cache = cards.cache(breaker=BreakerPolicy(failures=1_000_000))
    await keep(cache)
    with hung(cards.redis, cache):
        assert await failures(cache, 8) == ["cache_unavailable"] * 8


async def test_a_crowd_is_no_fault_of_redis(cards: Cards) -> None:
    cache = cards.cache(max_connections=1)
    await keep(cache)
    async with cache._free:  # somebody has the one connection
        cache._timeout_s = SHORT_S
        assert await failures(cache, 4) == ["cache_busy"] * 4
    cache._timeout_s = PATIENT_S
    assert await kept(cache) == b"x"  # Redis is not left alone for it


async def test_nobody_there_costs_a_few_refusals_and_then_nothing(cards: Cards) -> None:
    nowhere = msgspec.structs.replace(parse_redis_url(Secret(cards.redis.url())), port=free_port())
    cache = RedisCache(nowhere, cards.clock, prefix="x", timeout_s=PATIENT_S)
    assert await failures(cache, 10) == ["cache_unavailable"] * 3 + ["breaker_open"] * 7
    await cache.stop()


async def test_a_put_that_arrives_late_is_none(cards: Cards) -> None:
    """Who hung comes back and finds commands in its sockets that nobody waits for any more."""
    cache, other = cards.cache(), cards.cache()
    await other.get("profile:1")  # connected
    await keep(cache, key="another")  # so that Redis knows the script
    lease = await cache.lease("profile:1")
    with hung(cards.redis, cache):
        with pytest.raises(Unavailable, match="does not answer"):
            await cache.put("profile:1", b"old", lease, ttl_s=600, cost_s=0)
        forgetting = asyncio.create_task(other.forget("profile:1"))
        await asyncio.sleep(0.1)
    await forgetting
    assert await kept(other) is None
    assert not await other.put("profile:1", b"old", lease, ttl_s=600, cost_s=0)


# ----------------------------------------------------------------------------------------------- what could not be told


class Forgetful(RedisCache):
    """The safeguard taken away: a `forget` that failed is not remembered."""

    async def forget(self, key: str) -> None:
        try:
            await super().forget(key)
        finally:
            self._owed.clear()


async def told_nothing(cards: Cards, cache: RedisCache) -> str:
    """What a process reads after a change that it could not tell Redis of, once Redis is there again."""
    profiles, other = cards.profiles(cache), cards.cache()
    cards.name = "old"
    await other.forget("profile:1")
    assert await name_of(profiles) == "old"
    with hung(cards.redis, cache):
        assert await failures(cache, 3) == ["cache_unavailable"] * 3
        cards.name = "new"
        await profiles.forget(1)
    assert await kept(other) is not None  # as for any other process: until its time is over
    cards.clock.advance(60)
    return await name_of(profiles)


async def test_a_process_sees_its_own_changes_even_if_redis_was_not_told(cards: Cards) -> None:
    cache = cards.cache()
    assert await told_nothing(cards, cache) == "new"
    stored = await kept(cards.cache())
    assert stored is not None
    assert b"new" in stored  # and so do the others now

    options = parse_redis_url(Secret(cards.redis.url()))
    forgetful = Forgetful(options, cards.clock, prefix=cards.prefix, timeout_s=PATIENT_S)
    cards.made.append(forgetful)
    assert await told_nothing(cards, forgetful) == "old"


async def test_what_was_read_before_a_change_that_redis_was_not_told_of_is_not_put(cards: Cards) -> None:
    cache = cards.cache()
    lease = await cache.lease("profile:1")
    with hung(cards.redis, cache):
        assert await failures(cache, 3) == ["cache_unavailable"] * 3
        with pytest.raises(Unavailable):
            await cache.forget("profile:1")
    cards.clock.advance(60)
    assert not await cache.put("profile:1", b"old", lease, ttl_s=600, cost_s=0)
    await cache.lease("profile:1")  # tells it
    assert not cache._owed
    assert not await cards.cache().put("profile:1", b"old", lease, ttl_s=600, cost_s=0)


async def test_a_forget_that_is_broken_off_is_owed(cards: Cards) -> None:
    cache = cards.cache()
    await keep(cache)
    with hung(cards.redis):
        forgetting = asyncio.create_task(cache.forget("profile:1"))
        await asyncio.sleep(0.05)
        forgetting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forgetting
    assert list(cache._owed) == ["profile:1"]
    assert await kept(cache) is None
    assert not cache._owed


async def test_one_change_that_was_told_does_not_speak_for_a_later_one(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cards.cache()
    answers: list[asyncio.Future[object]] = [asyncio.Future(), asyncio.Future()]
    asked = iter(answers)
    monkeypatch.setattr(cache, "_call", lambda command: next(asked))
    first, second = (asyncio.create_task(cache.forget("profile:1")) for _ in range(2))
    await asyncio.sleep(0)
    answers[0].set_result(1)
    await first
    answers[1].set_exception(Unavailable("lost"))
    with pytest.raises(Unavailable):
        await second
    assert list(cache._owed) == ["profile:1"]


async def test_what_is_owed_is_bounded(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.users.profile_cache._redis.OWED_MAX", 5)
    cache = cards.cache()
    with hung(cards.redis, cache):
        assert await failures(cache, 3) == ["cache_unavailable"] * 3
        for number in range(20):
            with pytest.raises(Unavailable):
                await cache.forget(str(number))
    assert list(cache._owed) == ["15", "16", "17", "18", "19"]


# ------------------------------------------------------------------------------------------------------ garbage, full

PACKED = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\xff", b"{}", PACKED(["text", 1.0]), PACKED([b"v"]), PACKED([b"no profile", 0.1]), bytes(200_000)],
    ids=["empty", "bytes", "json", "types", "short", "profile", "long"],
)
async def test_garbage_is_replaced(cards: Cards, garbage: bytes) -> None:
    profiles = cards.profiles(cards.cache())
    await cards.admin.set(cards.key, garbage, px=600_000)
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    assert cards.reads == 1


async def test_what_is_too_long_is_not_even_read(cards: Cards) -> None:
    await cards.admin.set(cards.key, PACKED([bytes(200_000), 0.1]), px=600_000)
    with pytest.raises(Internal, match="none of ours"):
        await cards.cache().get("profile:1")


async def test_a_clock_that_was_set_back_makes_no_entry_last(cards: Cards) -> None:
    seconds, _ = await cards.admin.time()
    await cards.admin.set(f"{cards.key}:lease", f"7 {(seconds + 3600) * 1000}")
    assert await cards.cache().put("profile:1", b"x", 7, ttl_s=60, cost_s=0)
    assert 0 < await cards.admin.pttl(cards.key) <= 60_000


async def test_what_has_no_end_or_another_type_is_replaced(cards: Cards) -> None:
    cache = cards.cache()
    profiles = cards.profiles(cache)
    await cards.admin.set(cards.key, PACKED([b"", 0.1]))
    with pytest.raises(Internal, match="none of ours"):
        await cache.get("profile:1")
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    await cards.admin.delete(cards.key)
    await cards.admin.lpush(cards.key, "a list")
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    assert cards.reads == 2
    await cards.admin.delete(cards.key)
    await cards.admin.set(f"{cards.key}:lease", "no lease")
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    assert cards.reads == 3


@given(st.binary(max_size=64))
def test_whatever_an_entry_holds_the_database_answers(shared: Redis, garbage: bytes) -> None:
    async def run() -> None:
        cards = Cards(shared)
        profiles = cards.profiles(cards.cache())
        await cards.admin.set(cards.key, garbage, px=600_000)
        assert await name_of(profiles) == "old"
        assert cards.reads == 1
        await cards.close()

    asyncio.run(run())


async def test_a_redis_that_is_full_serves_what_it_has(cards: Cards) -> None:
    cache = cards.cache()
    profiles = cards.profiles(cache)
    await keep(cache, b"kept", "kept")
    await cards.admin.config_set("maxmemory", 1)
    try:
        assert await kept(cache, "kept") == b"kept"
        for _ in range(5):  # it answers, so nobody leaves it alone
            with pytest.raises(Unavailable, match=r"refuses: .*maxmemory") as full:
                await cache.lease("profile:1")
            assert full.value.code == "cache_refused"
        assert [await name_of(profiles) for _ in range(5)] == ["old"] * 5
        assert cards.reads == 5
        assert await kept(cache, "kept") == b"kept"
        await cache.forget("kept")
        assert await kept(cache, "kept") is None
    finally:
        await cards.admin.config_set("maxmemory", 32 << 20)
    assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
    assert cards.reads == 6


async def test_who_became_a_replica_is_connected_anew(cards: Cards) -> None:
    """After a failover the name leads to another master; connections that are kept would lead to the old one."""
    cache = cards.cache()
    await keep(cache)
    before = await cards.admin.info("stats")
    await cards.admin.replicaof("127.0.0.1", str(free_port()))
    try:
        with pytest.raises(Unavailable, match="read only"):
            await cache.forget("profile:1")
        with pytest.raises(Unavailable):
            await cache.get("profile:1")  # which has it, but not for who has changed it
    finally:
        await cards.admin.replicaof("NO", "ONE")
    assert await kept(cache) is None
    after = await cards.admin.info("stats")
    assert after["total_connections_received"] >= before["total_connections_received"] + 2


async def test_callers_that_give_up_take_no_connection_with_them(cards: Cards) -> None:
    cache = cards.cache(max_connections=2, clock=SystemClock())
    await keep(cache, b"kept")
    chance = random.Random(4)
    async with asyncio.timeout(PATIENT_S):
        for _ in range(100):
            crowd = [asyncio.create_task(kept(cache)) for _ in range(5)]
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            for one in chance.sample(crowd, 3):
                one.cancel()
            answers = await asyncio.gather(*crowd, return_exceptions=True)
            assert {answer for answer in answers if not isinstance(answer, BaseException)} <= {b"kept"}
            assert all(isinstance(answer, (bytes, asyncio.CancelledError)) for answer in answers)
        assert await asyncio.gather(*(kept(cache) for _ in range(20))) == [b"kept"] * 20
    clients = await cards.admin.client_list()
    assert len(clients) <= 2 + 1 + 20  # other tests' connections may still be closing


# ---------------------------------------------------------------------------------------------------- settings, start


@asynccontextmanager
async def opened(url: str, timeout_s: float = PATIENT_S) -> AsyncGenerator[RedisCache]:
    async with open_cache(
        Secret(url), SystemClock(), system=secrets.token_hex(8), entries_max=1, timeout_s=timeout_s
    ) as cache:
        assert isinstance(cache, RedisCache)
        yield cache


@pytest.mark.parametrize(
    "url",
    [
        "hush",
        "http://u:hush@host",
        "redis:hush",
        "redis://",
        "redis://u:hush@",
        "redis://u:hush@host:port",
        "redis://u:hush@host:99999",
        "redis://u:hu#sh@host",
        "redis://u:hush@host/name",
        "redis://u:hush@host/0/1",
        "redis://u:hush@host/0?ssl_cert_reqs=none",
        "redis://u:hush@host/0?tls_ca=/ca.pem",
        "rediss://u:hush@host/0?tls_ca=/nowhere/hush.pem",
        "rediss://u:hush@host/0?hush",
        "rediss://u:hush@[host/0",
    ],
)
async def test_a_wrong_url_is_refused_at_start(url: str) -> None:
    with pytest.raises(Invalid, match="profile_cache_url") as refused:
        async with opened(url):
            pass
    assert "hush" not in repr(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_urls_say_who_where_and_how(tmp_path: Path) -> None:
    plain = parse_redis_url(Secret("redis://host"))
    assert (plain.host, plain.port, plain.user, plain.database, plain.tls) == ("host", 6379, "", 0, False)
    assert not plain.password
    ca = tmp_path / "ca.pem"
    ca.touch()
    full = parse_redis_url(Secret(f"rediss://us%40er:{QUOTED}@[::1]:7000/3?tls_ca={ca}"))
    assert (full.host, full.port, full.user, full.database, full.tls) == ("::1", 7000, "us@er", 3, True)
    assert (full.password, full.tls_ca) == (Secret(PASSWORD), str(ca))
    assert full.where == "rediss://[::1]:7000/3"


async def test_the_password_is_told_to_redis_and_to_nobody_else(cards: Cards) -> None:
    environ = {"DOUGONG_PROFILE_CACHE_URL": cards.redis.url().replace(QUOTED, "hush")}
    settings = load(UsersSettings, environ=environ).value
    with capture_logs() as lines:
        async with opened(settings.profile_cache_url.reveal()) as cache:
            for _ in range(4):
                with pytest.raises(Unavailable) as refused:
                    await cache.get("profile:1")
                assert "hush" not in repr(refused.value) + repr(refused.value.__cause__)
    assert lines[0]["event"] == "the database is asked for profiles until Redis answers"
    assert "hush" not in repr(lines) + repr(settings) + repr(cache) + repr(cache._redis)


RIGHTS = "+ping +select +evalsha +script|load +get +strlen +pttl +time +set +del"
"""What docs/user-centre.md says that an account needs."""


async def test_an_account_of_its_own_needs_few_rights(cards: Cards) -> None:
    assert RIGHTS in (Path(__file__).parents[2] / "docs" / "user-centre.md").read_text()
    rights = RIGHTS.split()
    await cards.admin.acl_setuser("ann", enabled=True, passwords=["+a@b"], keys=["ann:*"], commands=rights)
    url = cards.redis.url().replace(f":{QUOTED}@", "ann:a%40b@")
    ours, others = (
        RedisCache(parse_redis_url(Secret(url)), cards.clock, prefix=prefix, timeout_s=PATIENT_S)
        for prefix in ("ann:users", "bob:users")
    )
    cards.made += [ours, others]
    with capture_logs() as lines:
        await ours.start()
    assert lines == []
    await keep(ours)
    assert await kept(ours) == b"x"
    await ours.forget("profile:1")
    with pytest.raises(Unavailable, match=r"(?i)permission"):
        await others.get("profile:1")


async def test_a_redis_that_is_down_at_start_is_used_once_it_is_there(cards: Cards) -> None:
    cards.redis.kill()
    try:
        with capture_logs() as lines:
            await cards.cache().start()
        assert [line["event"] for line in lines] == ["the database is asked for profiles until Redis answers"]
        profiles = cards.profiles(cards.made[0])
        assert [await name_of(profiles), await name_of(profiles)] == ["old", "old"]
        assert cards.reads == 2
    finally:
        cards.redis.start()
    cards.clock.advance(60)
    assert [await name_of(profiles) for _ in range(3)] == ["old"] * 3
    assert cards.reads == 3


async def test_who_asks_for_redis_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shop.users.profile_cache._redis", None)
    with pytest.raises(Invalid, match=r"pip install 'dougong\[redis\]'"):
        async with opened("redis://host"):
            pass


def test_and_nobody_else_does() -> None:
    code = "import sys; sys.modules['redis'] = None; import shop.users; print('here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"


async def test_without_a_url_it_is_memory() -> None:
    async with open_cache(Secret(""), SystemClock(), system="x", entries_max=1, timeout_s=1) as cache:
        for key in "ab":
            await cache.put(key, b"x", await cache.lease(key), ttl_s=60, cost_s=0)
        assert [await cache.get("a") is None, await cache.get("b") is None] == [True, False]


# ------------------------------------------------------------------------------------------------------------------ TLS


def certificates(folder: Path) -> dict[str, Path]:
    """An authority and a server's certificate for 127.0.0.1, as PEM files that any account may read."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *more: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(ca_name, name, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in more:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = {
        "ca": signed(ca_name, ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=None), identifier, usage),
        "certificate": signed(server, key.public_key(), local, issuer),
        "key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    folder.chmod(0o755)
    files = {}
    for name, content in made.items():
        files[name] = folder / f"{name}.pem"
        files[name].write_bytes(content)
        files[name].chmod(0o644)
    return files


async def test_tls_is_checked() -> None:
    folder = Path(tempfile.mkdtemp(prefix="dougong-tls-"))
    files, port = certificates(folder), free_port()
    redis = engines.make_redis(options=[
        "--tls-port", str(port), "--tls-cert-file", str(files["certificate"]), "--tls-key-file", str(files["key"]),
        "--tls-ca-cert-file", str(files["ca"]), "--tls-auth-clients", "no",
    ])  # fmt: skip
    try:
        login = f"rediss://:{QUOTED}@"
        async with opened(f"{login}127.0.0.1:{port}?tls_ca={files['ca']}") as cache:
            await keep(cache)
            assert await kept(cache) == b"x"
        for place in (f"127.0.0.1:{port}", f"localhost:{port}?tls_ca={files['ca']}"):  # no authority, not that name
            async with opened(login + place) as cache:
                with pytest.raises(Unavailable, match=r"(?i)certificate"):
                    await cache.get("profile:1")
    finally:
        redis.remove()
        shutil.rmtree(folder)
