"""Two processes of users over one Redis: what changes through one shows at once through both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis as Client
from tests import engines
from tests.system.conftest import READY_S, SYSTEM_FILE, Shop, free_port, system_on

from dougong.app import Supervisor
from dougong.evidence.engines import PASSWORD, QUOTED, Redis

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop"), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Redis]:
    made = engines.make_redis()
    yield made
    made.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def profiled(own_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    port, lines = free_port(), list[str]()
    system = system_on(port)
    apps = {"users": msgspec.structs.replace(system.apps["users"], instances=2), "edge": system.apps["edge"]}
    environment = {
        "DOUGONG_APP_USERS_PROFILE_CACHE_URL": own_redis.url(),
        "DOUGONG_APP_USERS_PROFILE_CACHE_TIMEOUT_S": "5",  # a busy machine is no reason to ask the database here
        "DOUGONG_APP_USERS_PROFILE_TTL_S": "600",
        "DOUGONG_APP_USERS_DEMO_USERS": "10",
    }
    supervisor = Supervisor(
        msgspec.structs.replace(system, apps=apps),
        SYSTEM_FILE,
        tmp_path_factory.mktemp("profiles"),
        environment=environment,
        on_line=lambda name, line: lines.append(f"{name}: {line}"),
    )
    try:
        await supervisor.start(ready_s=READY_S)
        async with aiohttp.ClientSession() as http:
            yield Shop(supervisor, f"http://127.0.0.1:{port}", http, lines)
    except BaseException as error:
        error.add_note("\n".join(lines[-50:]))
        raise
    finally:
        await supervisor.stop()


async def names(shop: Shop, token: str, times: int = 20) -> set[object]:
    """What both processes say: calls go to them in turn."""
    answers = [await shop.call("GET", "/v1/me", token=token) for _ in range(times)]
    assert {status for status, _ in answers} == {200}
    return {answer["name"] for _, answer in answers}


async def test_a_change_shows_at_once_whichever_process_is_asked(profiled: Shop, own_redis: Redis) -> None:
    token = await profiled.customer("Ann")
    async with Client(host="127.0.0.1", port=own_redis.port, password=PASSWORD) as redis:
        assert await names(profiled, token) == {"Ann"}
        for number in range(5):
            status, _ = await profiled.call("PATCH", "/v1/me", {"name": f"Anna {number}"}, token=token)
            assert status == 200
            assert await names(profiled, token) == {f"Anna {number}"}
        _, me = await profiled.call("GET", "/v1/me", token=token)
        key = f"shop:users:{{profile:{me['user_id']}}}"
        kept = await redis.get(key)
        assert isinstance(kept, bytes)
        assert b"Anna 4" in kept
        await redis.set(key, b"garbage", px=600_000)
        assert await names(profiled, token) == {"Anna 4"}
        before = await redis.info("stats")
        await names(profiled, token, 30)
        assert (await redis.info("stats"))["keyspace_hits"] >= before["keyspace_hits"] + 30


async def test_redis_may_go_and_come(profiled: Shop, own_redis: Redis) -> None:
    token = await profiled.customer("Bob")
    assert await names(profiled, token) == {"Bob"}
    own_redis.kill()
    try:
        assert await names(profiled, token) == {"Bob"}
        status, _ = await profiled.call("PATCH", "/v1/me", {"name": "Rob"}, token=token)
        assert status == 200
        assert await names(profiled, token) == {"Rob"}
    finally:
        own_redis.start()
    async with Client(host="127.0.0.1", port=own_redis.port, password=PASSWORD) as redis, asyncio.timeout(60):
        while not await redis.dbsize():  # until it is tried again
            assert await names(profiled, token, 4) == {"Rob"}
            await asyncio.sleep(0.1)
    assert await names(profiled, token) == {"Rob"}
    assert PASSWORD not in "".join(profiled.lines)
    assert QUOTED not in "".join(profiled.lines)
