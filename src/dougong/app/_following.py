"""A running process keeps up with the key files: every 2 s, and when a token names a key that it does not know."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import msgspec

from dougong.app._keys import Keys, believed
from dougong.app._secrets import SIGNING, VERIFYING, Secrets, read_keys, read_signing
from dougong.app._stamp import Stamp, stamp_of
from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.rpc import EndedSessions, JwtAuthenticator, JwtIssuer, KeyRing
from dougong.telemetry import get_logger

__all__ = ["FOLLOW_S", "FollowedKeys"]

FOLLOW_S = 2.0

log = get_logger(__name__)


class FollowedKeys:
    """The process's issuer and what its authenticators believe, as `directory` has it.

    Files that cannot be used leave in use what was known before, and the log says so once. The two files stand alone:
    a key that is gone from the one is not believed, whatever is wrong with the other.
    """

    def __init__(self, directory: Path, secrets: Secrets, clock: Clock) -> None:
        self._directory = directory
        self._secrets = secrets
        self._clock = clock
        self._numbers = count(1)
        self._newest = 0
        self._stamp: Stamp | None = None
        self._keys: Keys | None = None
        self._believed = dict(secrets.verifying_keys)
        self._signing = (secrets.signing_key, secrets.signing_kid)
        self._faults: frozenset[str] = frozenset()
        self._last: _Reading | None = None
        self.ring = KeyRing(self._believed, look=self._look, clock=clock)
        self.issuer: JwtIssuer = secrets.issuer(clock)

    def authenticator(self, ended: EndedSessions | None = None) -> JwtAuthenticator:
        """One that believes what the files say at any time."""
        return self._secrets.authenticator(self._clock, ended, ring=self.ring)

    async def follow(self) -> None:
        """Keep up until cancelled."""
        while True:
            self._apply(await asyncio.to_thread(self._read))
            await asyncio.sleep(FOLLOW_S)

    def refresh(self) -> None:
        """Take up what the files say now."""
        self._apply(self._read())

    def _look(self) -> None:
        """The same on a request's time: only if the file is another than the one that was read last."""
        if stamp_of(self._directory / VERIFYING) != self._stamp:
            self.refresh()

    def _read(self) -> _Reading:
        number, stamp = next(self._numbers), stamp_of(self._directory / VERIFYING)
        contents = tuple(_content(self._directory / name) for name in (SIGNING, VERIFYING))
        if self._last is not None and contents == self._last.contents:
            return msgspec.structs.replace(self._last, number=number, stamp=stamp)
        keys: Keys | None = None
        signing: tuple[str, str] | None = None
        faults: set[str] = set()
        try:
            private, kid, keys = read_signing(self._directory)
            signing = private, kid
        except Unavailable as error:
            faults.add(error.message)
            try:
                keys = read_keys(self._directory)
            except Unavailable as unreadable:
                faults.add(unreadable.message)
        return _Reading(number, stamp, contents, keys, signing, frozenset(faults))

    def _apply(self, reading: _Reading) -> None:
        if reading.number < self._newest:
            return  # begun on the thread before a look here that is done already
        self._newest, self._stamp, self._last = reading.number, reading.stamp, reading
        if reading.keys is not None:
            self._keys = reading.keys
        if self._keys is not None:
            keys = believed(self._keys, self._clock.now_us())
            if keys != self._believed:
                self.ring.replace(keys)
                self._believed = keys
                log.info("other keys are believed", keys=", ".join(keys))
        if reading.signing is not None and reading.signing != self._signing:
            self.issuer.use(*reading.signing)
            self._signing = reading.signing
            log.info("another key signs", key=reading.signing[1])
        for fault in sorted(reading.faults - self._faults):
            log.warning("key files cannot be used; what was read before stays in use", reason=fault)
        if self._faults and not reading.faults:
            log.info("key files can be used again")
        self._faults = reading.faults


class _Reading(msgspec.Struct, frozen=True):
    """What the files said; `contents` before they were read for it, so that what came later is read again."""

    number: int
    stamp: Stamp | None
    contents: tuple[bytes | None, ...]
    keys: Keys | None
    signing: tuple[str, str] | None
    faults: frozenset[str]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
