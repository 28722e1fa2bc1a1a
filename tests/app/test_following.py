"""Running processes keep up with the keys: no good token is refused, no ended one believed, whatever the files hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from structlog.testing import capture_logs
from tests.app.conftest import until
from tests.app.keyring import KEEP_S, World

from dougong.app import FollowedKeys, ensure_secrets, read_secrets, retire_key, rotate_keys
from dougong.app import _following as following
from dougong.app._keys import decode_keys, encode_keys
from dougong.app._rotation import Rotation
from dougong.app._stamp import stamp_of
from dougong.clock import ManualClock
from dougong.errors import Conflict, Error
from dougong.rpc import JwtIssuer, KeyRing


def warnings_of(world: World, times: int = 3) -> list[str]:
    with capture_logs() as said:
        for _ in range(times):
            world.follow(0)
    return [line["reason"] for line in said if line["log_level"] == "warning"]


def rotated(world: World, rotation: Rotation | None = None) -> Rotation:
    rotation = rotation if rotation is not None else world.rotation()
    for step in (rotation.publish, rotation.switch, rotation.settle):
        step()
        world.clock.advance(1)
        world.check()
    return rotation


def test_a_rotation_is_taken_up_and_nobody_is_refused_meanwhile(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.issue()
    rotation = rotated(world)
    assert world.issue().kid == before.kid, "the issuer has not looked yet"
    world.follow(0)
    after = world.issue()
    assert after.kid == rotation.kid
    assert world.believes(1, after), "looked when it did not know the key, without having followed"
    world.check_whole()


def without_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FollowedKeys, "_look", lambda _: None)


def without_check_of_what_was_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyRing, "holds", lambda *_: True)


async def story(directory: Path) -> None:
    """A key is replaced without notice and then found to have leaked."""
    world = World(directory)
    leaked = world.issue()
    world.check()
    rotated(world)
    world.follow(0)
    world.issue()
    world.check()
    await retire_key(directory, leaked.kid, now=True, clock=world.clock)
    world.banned[leaked.kid] = world.clock.now_us()
    world.clock.advance(1)
    world.follow()
    world.check()


async def test_a_key_that_leaked_is_not_believed_any_more(tmp_path: Path) -> None:
    await story(tmp_path)


@pytest.mark.parametrize(
    ("without", "caught"),
    [(without_look, "refuses a good token"), (without_check_of_what_was_believed, "believes a key that was ended")],
)
async def test_that_is_no_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: Callable[[pytest.MonkeyPatch], None], caught: str
) -> None:
    without(monkeypatch)
    with pytest.raises(AssertionError, match=caught):
        await story(tmp_path)


async def test_one_that_waits_needs_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_look(monkeypatch)
    world = World(tmp_path)

    async def all_follow(seconds: float) -> None:
        assert seconds > 2 * following.FOLLOW_S
        world.clock.advance(seconds)
        world.follow()

    kid = await rotate_keys(tmp_path, keep_s=KEEP_S, clock=world.clock, sleep=all_follow)
    world.follow(0)
    assert world.issue().kid == kid
    world.check()


def test_a_flood_of_invented_keys_costs_a_look_now_and_then_and_hides_no_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    looks, reads = 0, 0
    stamp, read = stamp_of, following._content

    def counted_stamp(path: Path) -> tuple[int, int, int] | None:
        nonlocal looks
        looks += 1
        return stamp(path)

    def counted_read(path: Path) -> bytes | None:
        nonlocal reads
        reads += 1
        return read(path)

    world.follow()
    monkeypatch.setattr(following, "stamp_of", counted_stamp)
    monkeypatch.setattr(following, "_content", counted_read)
    for _ in range(300):
        world.stranger(1)
        world.clock.advance(0.01)
    assert looks <= 31, "at most ten a second"
    assert reads == 0, "the file is the same"
    rotation = world.rotation()
    rotation.publish()
    rotation.switch()
    world.follow(0)
    world.stranger(1)
    ticket = world.issue()
    world.clock.advance(0.1)
    world.stranger(1)  # is first to have it looked for
    assert world.believes(1, ticket)


def test_a_key_taken_out_of_the_file_is_not_believed_whatever_is_wrong_with_the_other_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    ticket = world.issue()
    world.check()
    rotated(world)
    world.follow()
    path = tmp_path / "verifying.json"
    keys = decode_keys(path.read_bytes())
    del keys[ticket.kid]
    path.write_text(encode_keys(keys))
    (tmp_path / "signing.pem").write_text("gone wrong")
    world.clock.advance(1)
    world.follow()
    assert not world.believes(0, ticket)
    assert not world.believes(1, ticket)
    fresh = world.issue()
    assert fresh.kid in keys
    assert world.believes(1, fresh)


def test_another_key_under_the_same_id_is_another_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    ticket = world.issue()
    assert world.believes(1, ticket)
    other = JwtIssuer(JwtIssuer.new_private_key(), ticket.kid, issuer="shop", audience="shop").public_keys
    (tmp_path / "verifying.json").write_bytes(msgspec.json.encode(other))
    world.follow(1)
    assert not world.believes(1, ticket)


@pytest.mark.parametrize(
    "content", ["", "{", '{"k": "no pem"}', "{}", '{"k": {"retires_us": 1}}', "[]", "\0\0\0", "\udcff"]
)
@pytest.mark.parametrize("name", ["verifying.json", "signing.pem"])
def test_a_broken_file_is_named_once_and_changes_nothing(tmp_path: Path, name: str, content: str) -> None:
    world = World(tmp_path)
    world.issue()
    path = tmp_path / name
    good = path.read_bytes()
    path.write_text(content, errors="surrogateescape")
    (warning,) = warnings_of(world)
    assert str(path) in warning
    assert "remove it" in warning or "keys rotate" in warning
    world.issue()
    world.check()
    path.unlink()
    (warning,) = warnings_of(world)
    assert f"{name} is missing" in warning
    world.issue()
    world.check()
    path.write_bytes(good)
    with capture_logs() as said:
        world.follow(0)
    assert [line["event"] for line in said] == ["key files can be used again"]
    world.check_whole()


def test_what_nobody_would_believe_is_not_signed(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.issue()
    (tmp_path / "signing.pem").write_text(JwtIssuer.new_private_key())
    (warning,) = warnings_of(world)
    assert "nobody would believe what" in warning
    assert world.issue().kid == before.kid
    (tmp_path / "signing.pem").write_text(world.processes[0].keys.issuer.public_keys[before.kid])
    (warning,) = warnings_of(world)
    assert "is not an Ed25519 private key" in warning
    assert world.issue().kid == before.kid
    world.check()


def test_a_directory_of_before_goes_on_working(tmp_path: Path) -> None:
    private = JwtIssuer.new_private_key()
    (tmp_path / "signing.pem").write_text(private)
    issuer = JwtIssuer(private, "1", issuer="shop", audience="shop")
    (tmp_path / "verifying.json").write_bytes(msgspec.json.encode(issuer.public_keys))
    world = World(tmp_path)
    old = world.issue()
    assert old.kid == "1"
    assert JwtIssuer(private, "1", issuer="shop", audience="shop", clock=world.clock).public_keys == issuer.public_keys
    rotated(world)
    world.follow()
    assert world.issue().kid != "1"
    world.check_whole()


def test_an_old_signing_key_that_is_put_back_has_no_end_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    old, private = world.issue(), (tmp_path / "signing.pem").read_bytes()
    rotated(world)
    (tmp_path / "signing.pem").write_bytes(private)
    world.clock.advance(KEEP_S * 10)
    world.follow()
    assert world.issue().kid == old.kid
    world.check_whole()


def test_retired_keys_are_not_believed_although_nobody_removed_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    old = world.processes[0].keys.issuer.issue("ada", ttl_s=1e6)  # longer than its key is kept
    rotated(world)
    world.follow()
    authenticate = world.processes[1].authenticator
    assert authenticate(f"Bearer {old}").subject == "ada"
    world.clock.advance(KEEP_S + 61)
    world.follow()
    with pytest.raises(Error) as caught:
        authenticate(f"Bearer {old}")
    assert caught.value.code == "token_unknown_key"
    assert b"keys" in world.processes[1].keys.ring.jwks
    assert len(msgspec.json.decode(world.processes[1].keys.ring.jwks)["keys"]) == 1


def test_a_slow_reading_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    keys = world.processes[1].keys
    slow = keys._read()  # on the thread, while a request looks
    rotation = world.rotation()
    rotation.publish()
    rotation.switch()
    world.follow(0)
    ticket = world.issue()
    assert world.believes(1, ticket)
    keys._apply(slow)
    assert world.believes(1, ticket)


async def test_it_keeps_up_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOW_S", 0.01)
    ensure_secrets(tmp_path)
    clock = ManualClock()
    keys = FollowedKeys(tmp_path, read_secrets(tmp_path, "shop", clock), clock)
    task = asyncio.create_task(keys.follow())
    (tmp_path / "verifying.json").rename(tmp_path / "aside")
    await asyncio.sleep(0.05)
    (tmp_path / "aside").rename(tmp_path / "verifying.json")
    kid = await rotate_keys(tmp_path, wait_s=0.1)
    await until(lambda: list(keys.issuer.public_keys) == [kid])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Interleavings(RuleBasedStateMachine):
    """Rotations that are broken off anywhere, leaked keys, processes that follow late or start anew, in any order.

    No rotation waits here. What is written is read a second later or more, as a look every 0.1 s presumes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._directory = _fresh()
        self.world = World(self._directory, processes=3)
        self.rotation: Rotation | None = None
        self.done = 0

    @rule(number=st.integers(0, 2))
    def follow(self, number: int) -> None:
        self.world.follow(number)

    @rule(number=st.integers(0, 2))
    def restart(self, number: int) -> None:
        self.world.restart(number)

    @rule(number=st.integers(0, 2))
    def issue(self, number: int) -> None:
        ticket = self.world.issue(number)
        if ticket.kid in self.world.banned:
            self.world.tickets.remove(ticket)  # it has not followed since: that is let go

    @rule(number=st.integers(0, 2))
    def stranger(self, number: int) -> None:
        self.world.stranger(number)

    @rule(seconds=st.integers(1, 49))
    def wait(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @precondition(lambda self: self.rotation is None)
    @rule()
    def begin(self) -> None:
        self.rotation, self.done = self.world.rotation(), 1
        self.rotation.publish()

    @precondition(lambda self: self.rotation is not None)
    @rule()
    def go_on(self) -> None:
        assert self.rotation is not None
        (self.rotation.switch if self.done == 1 else self.rotation.settle)()
        self.done += 1
        if self.done == 3:
            self.rotation = None

    @precondition(lambda self: self.rotation is not None)
    @rule()
    def die(self) -> None:
        self.rotation = None

    @precondition(lambda self: self.rotation is None)
    @rule(number=st.integers(0, 9), now=st.booleans())
    def retire(self, number: int, now: bool) -> None:
        kids = list(decode_keys((self._directory / "verifying.json").read_bytes()))
        kid = kids[number % len(kids)]
        ending = retire_key(self._directory, kid, now=now, keep_s=KEEP_S, clock=self.world.clock, sleep=_no_time)
        try:
            asyncio.run(ending)
        except Conflict:
            assert not now, "only of the one that signs, and that not at once"
            return
        if now:
            self.world.banned[kid] = self.world.clock.now_us()

    @invariant()
    def everybody_is_believed(self) -> None:
        self.world.clock.advance(1)
        self.world.check()


async def _no_time(_: float) -> None: ...


_directories: list[Path] = []


def _fresh() -> Path:
    directory = _directories[0] / str(len(_directories))
    _directories.append(directory)
    return directory


def test_in_any_order(tmp_path: Path) -> None:
    _directories[:] = [tmp_path]
    run_state_machine_as_test(Interleavings)
