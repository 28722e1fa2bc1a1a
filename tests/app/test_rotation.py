"""Rotations: the system works after each step, whatever happens next, and the next one puts in order what is left."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.app.keyring import KEEP_S, World

from dougong.app import KeyState, ensure_secrets, retire_key, rotate_keys, show_keys
from dougong.app import _rotation as rotation_module
from dougong.app._keys import KEYS_MAX, decode_keys
from dougong.clock import ManualClock
from dougong.errors import Conflict, NotFound, Unavailable

WRITES = 3


class Killed(BaseException):
    """What no handler expects."""


def states(world: World) -> list[str]:
    found, fault = show_keys(world.directory, world.clock)
    assert fault == ""
    return [key.state.value for key in found]


async def rotate(world: World) -> str:
    async def wait(seconds: float) -> None:
        world.clock.advance(seconds)
        world.check_whole()

    return await rotate_keys(world.directory, keep_s=KEEP_S, clock=world.clock, sleep=wait)


async def retire(world: World, kid: str, *, now: bool = True) -> None:
    async def wait(seconds: float) -> None:
        world.clock.advance(seconds)
        world.check_whole()

    await retire_key(world.directory, kid, now=now, keep_s=KEEP_S, clock=world.clock, sleep=wait)
    if now:
        world.banned[kid] = world.clock.now_us()
        world.clock.advance(2)
        world.follow()


async def test_from_first_to_last(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.issue()
    assert states(world) == ["signing"]
    second = await rotate(world)
    assert {k.kid: k.state for k in show_keys(tmp_path, world.clock)[0]} == {
        first.kid: KeyState.RETIRING,
        second: KeyState.SIGNING,
    }
    world.follow()
    assert world.issue().kid == second
    world.clock.advance(KEEP_S + 61)
    assert sorted(states(world)) == ["retired", "signing"]
    await rotate(world)
    assert sorted(states(world)) == ["retiring", "signing"], "the retired one was removed"
    world.follow()
    world.check_whole()


def test_the_id_is_the_keys_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    (jwk,) = msgspec.json.decode(world.processes[0].keys.ring.jwks)["keys"]
    assert jwk.pop("kid") == world.issue().kid
    assert {name: jwk[name] for name in ("alg", "crv", "kty", "use")} == {
        "alg": "EdDSA",
        "crv": "Ed25519",
        "kty": "OKP",
        "use": "sig",
    }
    assert "d" not in jwk


def before_the_file_is_there(monkeypatch: pytest.MonkeyPatch, countdown: Callable[[], None]) -> None:
    replace = Path.replace

    def broken(self: Path, target: Path) -> Path:
        countdown()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", broken)


def after_the_file_is_there(monkeypatch: pytest.MonkeyPatch, countdown: Callable[[], None]) -> None:
    monkeypatch.setattr(rotation_module, "_sync", lambda _: countdown())


@pytest.mark.parametrize("break_off", [before_the_file_is_there, after_the_file_is_there])
@pytest.mark.parametrize("write", range(WRITES))
@pytest.mark.parametrize("leaked", [False, True])
async def test_broken_off_at_any_write_the_system_works_and_the_next_rotation_repairs(
    tmp_path: Path, break_off: Callable[[pytest.MonkeyPatch, Callable[[], None]], None], write: int, leaked: bool
) -> None:
    world = World(tmp_path)
    first = world.issue().kid
    left = write

    def countdown() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        break_off(patched, countdown)
        with pytest.raises(Killed):
            await (retire(world, first) if leaked else rotate(world))
    assert left == -1
    if leaked and write == WRITES - 1 and break_off is after_the_file_is_there:
        world.banned[first] = world.clock.now_us()  # it was done, only nobody said so
    world.clock.advance(1)
    world.check_whole()
    world.follow()
    world.check_whole()

    (tmp_path / ".signing.pem.new").write_text("what one that is killed leaves")
    last = await rotate(world)
    world.follow()
    world.check_whole()
    found, _ = show_keys(tmp_path, world.clock)
    assert [key.kid for key in found if key.state is KeyState.SIGNING] == [last]
    assert all(key.retires_us for key in found if key.kid != last), "nothing is believed for ever"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.lock", "signing.pem", "system.token", "verifying.json"]
    world.clock.advance(KEEP_S + 61)
    await rotate(world)
    assert sorted(states(world)) == ["retiring", "signing"]


async def test_signing_before_it_is_published_is_caught(tmp_path: Path) -> None:
    world = World(tmp_path)
    rotation = world.rotation()
    with pytest.raises(AssertionError, match="published first"):
        rotation.switch()
    (tmp_path / "signing.pem").write_text(rotation._private)  # as if that were not there
    with pytest.raises(Unavailable, match="nobody would believe"):
        world.check_whole()


async def test_one_at_a_time(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    waits, go = asyncio.Event(), asyncio.Event()

    async def wait(_: float) -> None:
        waits.set()
        await go.wait()

    first = asyncio.create_task(rotate_keys(tmp_path, sleep=wait))
    await waits.wait()
    for attempt in (rotate_keys(tmp_path, wait_s=0), retire_key(tmp_path, "any", now=True)):
        with pytest.raises(Conflict, match=rf"changed already \(process {os.getpid()}\)") as caught:
            await attempt
        assert caught.value.code == "keys_busy"
    go.set()
    kid = await first
    assert [key.kid for key in show_keys(tmp_path)[0] if key.state is KeyState.SIGNING] == [kid]
    await rotate_keys(tmp_path, wait_s=0)


async def test_a_leaked_key_that_signs_is_replaced_and_then_not_believed(tmp_path: Path) -> None:
    world = World(tmp_path)
    leaked = world.issue()
    world.check()
    await retire(world, leaked.kid)
    assert not world.believes(0, leaked)
    assert not world.believes(1, leaked)
    assert states(world) == ["signing"]
    world.check_whole()


async def test_a_leaked_key_that_signs_no_more_is_not_believed_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    leaked = world.issue()
    kid = await rotate(world)
    world.follow()
    good = world.issue()
    await retire(world, leaked.kid)
    assert not world.believes(1, leaked)
    assert world.believes(1, good)
    assert [key.kid for key in show_keys(tmp_path, world.clock)[0]] == [kid], "no rotation was needed"


async def test_a_key_is_retired_when_its_time_has_come(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(Conflict, match="'dougong keys rotate'") as caught:
        await retire(world, world.issue().kid, now=False)
    assert caught.value.code == "key_signs"
    with pytest.raises(NotFound, match="no key 'x'; there are "):
        await retire(world, "x")
    rotation = world.rotation()
    rotation.publish()  # broken off
    assert sorted(states(world)) == ["published", "signing"]
    await retire(world, rotation.kid, now=False)
    assert sorted(states(world)) == ["retiring", "signing"]
    before = (tmp_path / "verifying.json").read_bytes()
    await retire(world, rotation.kid, now=False)
    assert (tmp_path / "verifying.json").read_bytes() == before, "an end that stands is not put off"
    world.check_whole()


@pytest.mark.parametrize("content", ["", "no key", None])
async def test_a_broken_signing_key_is_replaced(tmp_path: Path, content: str | None) -> None:
    world = World(tmp_path)
    kept = world.issue()
    if content is None:
        (tmp_path / "signing.pem").unlink()
    else:
        (tmp_path / "signing.pem").write_text(content)
    found, fault = show_keys(tmp_path, world.clock)
    assert [key.state for key in found] == [KeyState.PUBLISHED]
    assert "'dougong keys rotate'" in fault
    kid = await rotate_keys(tmp_path, keep_s=KEEP_S, clock=world.clock, sleep=_no_time)
    world.clock.advance(2)
    world.follow()
    assert world.issue().kid == kid
    assert world.believes(1, kept)
    world.check_whole()


async def test_the_only_key_is_not_taken_away_without_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    leaked = world.issue()
    (tmp_path / "signing.pem").write_text("no key")
    await retire_key(tmp_path, leaked.kid, now=True, clock=world.clock, sleep=_no_time)
    world.banned[leaked.kid] = world.clock.now_us()
    world.clock.advance(2)
    world.follow()
    world.check_whole()


@pytest.mark.parametrize("name", ["verifying.json", "signing.pem", "keys.lock"])
async def test_where_nothing_can_be_written_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world = World(tmp_path)
    world.issue()
    opened = os.open

    def read_only(path: Path | str, flags: int, *rest: int, **options: int) -> int:
        if name in str(path) and flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(Unavailable, match=rf"{name} cannot be written: Read-only file system; run this as the owner"):
        await rotate(world)
    monkeypatch.undo()
    world.clock.advance(1)
    world.check_whole()
    await rotate(world)


async def test_a_damaged_list_of_keys_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    (tmp_path / "verifying.json").write_text('["no"')
    for attempt in (rotate_keys(tmp_path, wait_s=0), retire_key(tmp_path, "k")):
        with pytest.raises(Unavailable, match=r"verifying\.json is not JSON .* remove it"):
            await attempt
    with pytest.raises(Unavailable, match=r"verifying\.json is not JSON"):
        show_keys(tmp_path)
    assert (tmp_path / "verifying.json").read_text() == '["no"'


async def test_the_number_of_keys_is_bounded(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    clock = ManualClock()
    for _ in range(KEYS_MAX - 1):
        await rotate_keys(tmp_path, wait_s=0, clock=clock)
    with pytest.raises(Conflict, match="wait until some are retired") as caught:
        await rotate_keys(tmp_path, wait_s=0, clock=clock)
    assert caught.value.code == "too_many_keys"
    *_, last = decode_keys((tmp_path / "verifying.json").read_bytes())
    await retire_key(tmp_path, last, now=True, wait_s=0, clock=clock)  # that a key leaked is no time to wait
    assert len(decode_keys((tmp_path / "verifying.json").read_bytes())) == KEYS_MAX
    clock.advance(4000)
    await rotate_keys(tmp_path, wait_s=0, clock=clock)
    assert len(decode_keys((tmp_path / "verifying.json").read_bytes())) == 2


async def test_files_are_for_their_owner_only_whatever_they_were(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    (tmp_path / "verifying.json").chmod(0o644)
    old = os.umask(0)
    try:
        await rotate_keys(tmp_path, wait_s=0)
    finally:
        os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_root_rotates_for_who_owns_the_files(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, 12345, 12346)
    await rotate_keys(tmp_path, wait_s=0)
    for path in tmp_path.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346), path


async def _no_time(_: float) -> None: ...
