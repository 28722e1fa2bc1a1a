"""Tokens made afresh: asked for in time, once for all, and what happens when that fails."""

from __future__ import annotations

import asyncio

import pytest
from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example

from dougong.clock import ManualClock
from dougong.errors import Unauthenticated, Unavailable
from dougong.rpc import Caller, JwtIssuer, credentials
from dougong.rpc.credentials import Credentials


def by_token(header: str) -> Caller:
    if not header:
        raise Unauthenticated("no token", code="token_missing")
    return Caller(header.removeprefix("Bearer "))


async def test_a_provider_gives_the_token_of_plain_calls_batches_and_streams(lab: Lab) -> None:
    server = await lab.serve(Example(), authenticator=by_token)
    made: list[str] = []

    async def fresh() -> str:
        await asyncio.sleep(0)
        made.append(f"t{len(made)}")
        return made[-1]

    remote = lab.call(server.address, token=fresh)
    answers = await asyncio.gather(*(remote.get(Ask()) for _ in range(20)), *(remote.place(Ask()) for _ in range(20)))
    assert {answer.owner for answer in answers} == {"t0"}
    assert [answer.number async for answer in remote.down(Ask(number=2))] == [0, 1]
    assert made == ["t0"]


async def test_a_caller_sends_another_in_plain_calls_and_in_batches(lab: Lab) -> None:
    server = await lab.serve(Example(), authenticator=by_token)
    remote = lab.call(server.address, token="own")

    async def place(token: str) -> Answer:
        with credentials(token):
            return await remote.place(Ask())

    with credentials("other"):
        assert (await remote.get(Ask())).owner == "other"
    answers = await asyncio.gather(*(place(token) for token in ("a", "b", "") * 5))
    assert [answer.owner for answer in answers] == ["a", "b", "own"] * 5, "nobody acts as somebody else in a batch"


def jwt(clock: ManualClock, ttl_s: int) -> str:
    key = JwtIssuer.new_private_key()
    return JwtIssuer(key, "k", issuer="shop", audience="shop", ttl_s=ttl_s, clock=clock).issue("u")


async def test_it_is_asked_again_shortly_before_the_end() -> None:
    clock = ManualClock()
    asked = 0

    def provider() -> str:
        nonlocal asked
        asked += 1
        return jwt(clock, 600)

    own = Credentials(provider, clock)
    end = asyncio.get_running_loop().time() + 5
    first = await own.get(end)
    clock.advance(560)
    assert await own.get(end) == first
    clock.advance(15)
    assert not own.fresh
    assert await own.get(end) != first
    assert asked == 2
    opaque = Credentials(lambda: "text", clock)
    await opaque.get(end)
    clock.advance(40)
    assert opaque.fresh
    clock.advance(20)
    assert not opaque.fresh


async def test_when_it_fails_the_old_token_is_used_while_it_lives() -> None:
    clock = ManualClock()
    works = True

    async def provider() -> str:
        if not works:
            raise ConnectionError("secret detail")
        return jwt(clock, 100)

    own = Credentials(provider, clock)
    end = asyncio.get_running_loop().time() + 5
    first = await own.get(end)
    works = False
    clock.advance(90)
    assert await own.get(end) == first
    clock.advance(20)
    with pytest.raises(Unavailable) as caught:
        await own.get(end)
    assert caught.value.code == "credentials_failed"
    assert "secret detail" not in str(caught.value)


@pytest.mark.parametrize("nonsense", ["", None, "ü", "x" * 20_000])
async def test_what_is_no_token_is_refused(nonsense: str) -> None:
    with pytest.raises(Unavailable):
        await Credentials(lambda: nonsense).get(asyncio.get_running_loop().time() + 5)


async def test_a_provider_that_hangs_costs_a_call_its_own_deadline_only(lab: Lab) -> None:
    server = await lab.serve(Example(), authenticator=by_token)

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    own = Credentials(hangs)
    with pytest.raises(Unavailable):
        await own.get(asyncio.get_running_loop().time() + 0.05)
    await own.close()
    remote = lab.call(server.address, token=hangs)
    waiting = asyncio.create_task(remote.get(Ask()))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
