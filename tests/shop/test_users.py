"""Accounts: registering, logging in, and what a flood of either may cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import argon2
import pytest
import pytest_asyncio
from tests.shop.user_desk import Desk, user_desk

from dougong.clock import SystemClock
from dougong.contract import codec
from dougong.errors import Conflict, Invalid, NotFound, Overloaded, Unauthenticated
from dougong.shard import BUCKETS, hash_bucket, is_aligned
from shop.users import GetProfile, GetWallet, Login, Register, UpdateProfile, UsersSettings
from shop.users._demo import DEMO_PASSWORD, seed
from shop.users._passwords import Passwords

ANN = Register(email="Ann@Example.org", password="correct horse", name="Ann")


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with user_desk(tmp_path) as made:
        yield made


async def test_an_account_opens_with_its_wallet_and_its_address_is_one_in_any_case(desk: Desk) -> None:
    profile = await desk.users.register(ANN)
    assert profile.email == "ann@example.org"
    wallet = await desk.users.get_wallet(GetWallet(user_id=profile.user_id))
    assert (wallet.available, wallet.frozen, wallet.spent) == (wallet.deposited, 0, 0)
    token = await desk.users.login(Login(email="ANN@example.org", password="correct horse"))
    assert token.user_id == profile.user_id
    with pytest.raises(Conflict, match="has an account"):
        await desk.users.register(Register(email="ann@EXAMPLE.org", password="12345678", name="Another"))


async def test_one_of_many_registrations_of_an_address_wins(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.users.register(ANN) for _ in range(4)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 3 + ["Profile"]
    assert (await desk.gateway.books())[0] == 1


async def test_unknown_address_and_wrong_password_are_told_alike_after_the_same_work(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.users.register(ANN)
    verified: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        verified.append(argon2.extract_parameters(stored))
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    told = []
    for login in (Login(email="ann@example.org", password="wrong"), Login(email="bob@example.org", password="wrong")):
        with pytest.raises(Unauthenticated) as caught:
            await desk.users.login(login)
        told.append((caught.value.code, caught.value.message, caught.value.fields))
    assert told[0] == told[1]
    assert len(verified) == 2
    assert verified[0] == verified[1]


async def test_nobodys_password_opens_nothing(desk: Desk) -> None:
    assert not await desk.passwords.verify(None, "nobody's password")
    assert not await desk.passwords.verify("not a hash", "x")


async def test_a_flood_of_log_ins_is_refused_beyond_its_line_and_leaves_nothing_behind() -> None:
    passwords = Passwords(threads=1, waiting_max=3)
    answers = await asyncio.gather(*(passwords.verify(None, "x") for _ in range(10)), return_exceptions=True)
    assert [a for a in answers if not isinstance(a, BaseException)] == [False] * 3
    assert sum(isinstance(a, Overloaded) for a in answers) == 7
    waiting = [asyncio.create_task(passwords.verify(None, "x")) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await passwords.verify(None, "x") is False
    passwords.close()


async def test_ids_that_cannot_be_are_not_there(desk: Desk) -> None:
    for user_id in ("", "0", "-1", "9" * 18, "9" * 30, "٣", "1; DROP TABLE users", "edge"):
        with pytest.raises(NotFound):
            await desk.users.get_profile(GetProfile(user_id=user_id))
        with pytest.raises(NotFound):
            await desk.users.get_wallet(GetWallet(user_id=user_id))
        with pytest.raises(NotFound):
            await desk.users.update_profile(UpdateProfile(user_id=user_id, name="x"))


async def test_names_of_any_script_come_back_as_they_were(desk: Desk) -> None:
    profile = await desk.users.register(Register(email="斗@拱.example", password="пароль-пароль", name="斗拱 🏯 é"))
    token = await desk.users.login(Login(email="斗@拱.example", password="пароль-пароль"))
    assert (await desk.users.get_profile(GetProfile(user_id=token.user_id))).name == profile.name == "斗拱 🏯 é"


@pytest.mark.parametrize("hidden", ["\x00", "\n", "\x1b", "\x85", "\u202e", "\u2066"])
def test_names_and_addresses_hold_nothing_that_disguises_them(hidden: str) -> None:
    validate = codec(Register).validate
    validate(Register(email="斗@拱.example", password="12345678", name="斗拱 🏯 é"))
    for bad in (f"a{hidden}b", hidden, f"a{hidden}"):
        with pytest.raises(Invalid, match="name"):
            validate(Register(email="a@b.example", password="12345678", name=bad))
        with pytest.raises(Invalid, match="email"):
            validate(Register(email=f"{bad}@b.example", password="12345678", name="a"))
        with pytest.raises(Invalid, match="email"):
            validate(Register(email=f"a@b.{bad}", password="12345678", name="a"))


async def test_a_database_is_filled_once_also_by_two_instances(desk: Desk) -> None:
    settings = UsersSettings(demo_users=5)
    clock = SystemClock()
    await asyncio.gather(*(seed(desk.gateway, clock, desk.passwords, settings) for _ in range(2)))
    await seed(desk.gateway, clock, desk.passwords, settings)
    assert (await desk.gateway.books())[0] == 7
    token = await desk.users.login(Login(email="user-3@shop.example", password=DEMO_PASSWORD))
    assert token.user_id == "3"
    profile = await desk.users.register(ANN)
    user_id = int(profile.user_id)
    assert is_aligned(user_id)
    assert user_id % BUCKETS == hash_bucket(profile.email)


async def test_a_changed_name_shows_at_once(desk: Desk) -> None:
    ann = await desk.users.register(ANN)
    assert (await desk.users.get_profile(GetProfile(user_id=ann.user_id))).name == "Ann"
    renamed = await desk.users.update_profile(UpdateProfile(user_id=ann.user_id, name="Anna"))
    again = await desk.users.get_profile(GetProfile(user_id=ann.user_id))
    assert (renamed.name, again.name) == ("Anna", "Anna")
