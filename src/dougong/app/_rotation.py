"""Another key signs: in steps of which each leaves a system that works, whatever happens before the next.

    publish   verifying.json  old + new      everybody learns to believe the new one, nobody uses it
    (wait)                                   until all who follow the files have read it
    switch    signing.pem     new            issuers take it up when they next look
    settle    verifying.json  old gets an end

Killed after `publish`, a public key is left whose private half nobody has: harmless, and the next rotation ends it.
Killed after `switch`, the old key is believed without an end until the next rotation gives it one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dougong.app._keys import KEYS_MAX, Keys, KeyState, PublicKey, encode_keys, ended, new_key, state_of
from dougong.app._secrets import SIGNING, VERIFYING, read_keys, read_signing
from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, NotFound, Unavailable
from dougong.rpc import JwtIssuer

__all__ = ["KEYS_KEEP_S", "KEYS_WAIT_S", "KeyInfo", "Rotation", "retire_key", "rotate_keys", "show_keys"]

KEYS_KEEP_S = 3900.0
"""Tokens live an hour unless their app says otherwise; the rest is for clocks that differ."""
KEYS_WAIT_S = 10.0
"""From publishing to signing: more than processes take to notice (2 s) and a copy of the JWK set is good for (5 s)."""

_SLOW_S = 60.0
"""An issuer that was stopped for so long after the switch may still have signed with the old key."""
_LOCK = "keys.lock"

Sleep = Callable[[float], Awaitable[None]]


class KeyInfo(msgspec.Struct, frozen=True):
    """What may be shown of a key; times are 0 when unknown, or when there is no end yet."""

    kid: str
    state: KeyState
    created_us: int
    retires_us: int


class Rotation:
    """The steps of one rotation, to be taken in order by whoever holds the directory's lock.

    `keep_s`: how long the longest of the old key's tokens lives. `wait_s`: the time between `publish` and `switch`.
    `without`: a key that leaked; `settle` takes it away.
    """

    def __init__(self, directory: Path, *, keep_s: float, wait_s: float, clock: Clock, without: str = "") -> None:
        self._directory = directory
        self._keep_s = keep_s
        self._wait_s = wait_s
        self._clock = clock
        self._without = without
        self._private, self.kid = new_key()
        self._keys: Keys = {}

    def publish(self) -> None:
        """Let all believe the new key. Works with a broken `signing.pem` too: that is how one gets another.

        Raises `Conflict` (`too_many_keys`) and changes nothing when there is no room for it.
        """
        keys, signing = read_keys(self._directory), _signing(self._directory)
        now_us = self._clock.now_us()
        left = ended(keys, signing, now_us, _after(now_us, self._wait_s + _SLOW_S + self._keep_s))
        if len(left.keys() - {self._without}) >= KEYS_MAX:
            raise Conflict(
                f"{len(left)} keys are believed already; wait until some are retired, or end them with "
                f"'dougong keys retire KID --now'",
                code="too_many_keys",
            )
        (public,) = JwtIssuer(self._private, self.kid, issuer="any", audience="any").public_keys.values()
        self._keys = {**left, self.kid: PublicKey(public, now_us)}
        _replace(self._directory / VERIFYING, encode_keys(self._keys))

    def switch(self) -> None:
        """Have the new key sign."""
        assert self.kid in self._keys, "published first: else tokens are signed that nobody believes"
        _replace(self._directory / SIGNING, self._private)

    def settle(self) -> None:
        """Give the old key its end."""
        now_us = self._clock.now_us()
        left = ended(self._keys, self.kid, now_us, _after(now_us, _SLOW_S + self._keep_s))
        self._keys = {kid: key for kid, key in left.items() if kid != self._without}
        _replace(self._directory / VERIFYING, encode_keys(self._keys))


async def rotate_keys(
    directory: Path,
    *,
    keep_s: float = KEYS_KEEP_S,
    wait_s: float = KEYS_WAIT_S,
    clock: Clock | None = None,
    sleep: Sleep = asyncio.sleep,
) -> str:
    """Have a new key sign; its id. Keys whose end has come are removed.

    Raises `Conflict` (`keys_busy`) when a rotation is under way, `Unavailable` naming the file that cannot be read or
    written.
    """
    with _locked(directory):
        return await _rotate(directory, keep_s, wait_s, clock if clock is not None else SystemClock(), sleep)


async def retire_key(
    directory: Path,
    kid: str,
    *,
    now: bool = False,
    keep_s: float = KEYS_KEEP_S,
    wait_s: float = KEYS_WAIT_S,
    clock: Clock | None = None,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """End a key: when the last of its tokens has expired, or `now`, for one that leaked.

    `now` and the key signs: a rotation puts another in its place first, so that people can log in meanwhile. Raises
    `NotFound` for an unknown key, `Conflict` (`key_signs`) for the one that signs without `now`; else as `rotate_keys`.
    """
    clock = clock if clock is not None else SystemClock()
    with _locked(directory):
        keys, signing = read_keys(directory), _signing(directory)
        if kid not in keys:
            raise NotFound(f"there is no key {kid!r}; there are {', '.join(keys)}", code="unknown_key", kid=kid)
        if kid == signing and not now:
            raise Conflict(
                f"key {kid} signs; 'dougong keys rotate' puts another in its place and ends it in time, "
                f"--now does both at once",
                code="key_signs",
                kid=kid,
            )
        if now and (kid == signing or len(keys) == 1):
            await _rotate(directory, keep_s, wait_s, clock, sleep, without=kid)
            return
        if now:
            del keys[kid]
        elif not keys[kid].retires_us:
            keys[kid] = msgspec.structs.replace(keys[kid], retires_us=_after(clock.now_us(), _SLOW_S + keep_s))
        _replace(directory / VERIFYING, encode_keys(keys))


def show_keys(directory: Path, clock: Clock | None = None) -> tuple[list[KeyInfo], str]:
    """The keys, oldest first, and what is wrong with the one that should sign ("" if nothing is).

    Raises `Unavailable` when the public keys cannot be read.
    """
    keys, fault = read_keys(directory), ""
    try:
        _, signing, keys = read_signing(directory)
    except Unavailable as error:
        signing, fault = "", error.message
    now_us = (clock if clock is not None else SystemClock()).now_us()
    order = sorted(keys, key=lambda kid: keys[kid].created_us)
    return [
        KeyInfo(kid, state_of(kid, keys, signing, now_us), keys[kid].created_us, keys[kid].retires_us) for kid in order
    ], fault


async def _rotate(
    directory: Path, keep_s: float, wait_s: float, clock: Clock, sleep: Sleep, *, without: str = ""
) -> str:
    rotation = Rotation(directory, keep_s=keep_s, wait_s=wait_s, clock=clock, without=without)
    rotation.publish()
    await sleep(wait_s)
    rotation.switch()
    rotation.settle()
    return rotation.kid


def _after(now_us: int, seconds: float) -> int:
    return now_us + round(seconds * 1e6)


def _signing(directory: Path) -> str:
    """The id of the key that signs; "" when none can."""
    try:
        return read_signing(directory)[1]
    except Unavailable:
        return ""


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """One who changes keys at a time. The kernel lets go of the lock when its holder dies, however it dies."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _claim(descriptor, path)
        for name in (SIGNING, VERIFYING):
            _remove(_temporary(directory / name))
        yield
    finally:
        os.close(descriptor)


def _claim(descriptor: int, path: Path) -> None:
    try:
        _give(descriptor, path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        raise Conflict(
            f"the keys in {path.parent} are being changed already (process {holder}); try again when it is done",
            code="keys_busy",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def _remove(temporary: Path) -> None:
    """What one who was killed while writing left, maybe a private key."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(temporary, error) from error


def _replace(path: Path, content: str) -> None:
    """The new content or the old, also after a power cut; for the same owner as before, and nobody else."""
    temporary = _temporary(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                _give(file.fileno(), path if path.exists() else path.parent)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def _give(descriptor: int, like: Path) -> None:
    """Root rotates for the user whom the system runs as, who must be able to read the files."""
    if os.geteuid() == 0:
        status = like.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _unwritable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"key file {path} cannot be written: {error.strerror}; run this as the owner of {path.parent}, "
        f"or change the keys where they come from",
        code="secrets_unusable",
    )
