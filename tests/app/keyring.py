"""Processes that follow one directory of keys, on a clock that is moved by hand; and what must be true of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dougong.app import FollowedKeys, ensure_secrets, read_secrets
from dougong.app._rotation import Rotation
from dougong.clock import ManualClock
from dougong.errors import Unauthenticated
from dougong.rpc import JwtAuthenticator, JwtIssuer

TTL_S = 60.0
KEEP_S = 70.0
"""The tokens' life and the authenticators' leeway of 5 s, and hardly more."""
SLOW_S = 50.0
"""Longer than that no process is late in these worlds; rotations reckon with 60 s."""


@dataclass
class Ticket:
    """A token that was issued to somebody."""

    token: str
    kid: str
    expires_us: int


class Process:
    """One process of a system, as far as keys go."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.keys = FollowedKeys(directory, read_secrets(directory, "shop", clock), clock)
        self.authenticator: JwtAuthenticator = self.keys.authenticator()
        self.followed_us = clock.now_us()


class World:
    """Some processes, and all tokens that they have issued."""

    def __init__(self, directory: Path, processes: int = 2) -> None:
        self.directory = directory
        self.clock = ManualClock()
        ensure_secrets(directory)
        self.processes = [Process(directory, self.clock) for _ in range(processes)]
        self.tickets: list[Ticket] = []
        self.banned: dict[str, int] = {}
        """Keys that were ended at once, and when."""

    def restart(self, number: int) -> None:
        self.processes[number] = Process(self.directory, self.clock)

    def follow(self, number: int | None = None) -> None:
        for process in self.processes if number is None else [self.processes[number]]:
            process.keys.refresh()
            process.followed_us = self.clock.now_us()

    def issue(self, number: int = 0) -> Ticket:
        if self.clock.now_us() - self.processes[number].followed_us > SLOW_S * 1e6:
            self.follow(number)
        issuer = self.processes[number].keys.issuer
        (kid,) = issuer.public_keys
        ticket = Ticket(issuer.issue("ada", ttl_s=TTL_S), kid, self.clock.now_us() + round(TTL_S * 1e6))
        self.tickets.append(ticket)
        return ticket

    def believes(self, number: int, ticket: Ticket) -> bool:
        try:
            return self.processes[number].authenticator(f"Bearer {ticket.token}").subject == "ada"
        except Unauthenticated:
            return False

    def stranger(self, number: int) -> None:
        """Somebody invents a key."""
        forged = JwtIssuer(JwtIssuer.new_private_key(), "invented", issuer="shop", audience="shop", clock=self.clock)
        with pytest.raises(Unauthenticated):
            self.processes[number].authenticator(f"Bearer {forged.issue('ada')}")

    def check(self) -> None:
        """Whoever holds a good token is let in everywhere, and nobody by a key that was ended before."""
        now_us = self.clock.now_us()
        for number, process in enumerate(self.processes):
            for ticket in self.tickets:
                if ticket.kid not in self.banned:
                    if now_us < ticket.expires_us:
                        assert self.believes(number, ticket), f"process {number} refuses a good token"
                elif process.followed_us > self.banned[ticket.kid]:
                    assert not self.believes(number, ticket), f"process {number} believes a key that was ended"

    def check_whole(self) -> None:
        """The same, with a process that starts now and tokens issued now."""
        self.processes.append(Process(self.directory, self.clock))
        for number in range(len(self.processes)):
            self.issue(number)
        self.check()
        self.processes.pop()

    def rotation(self) -> Rotation:
        return Rotation(self.directory, keep_s=KEEP_S, wait_s=0, clock=self.clock)
