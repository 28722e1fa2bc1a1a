"""Who is connected: by number, by user, by address, and how many of each there may be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import msgspec

from dougong.gateway.connection import TICK_S, Connection, Phase
from dougong.gateway.settings import GatewaySettings

__all__ = ["Roster", "Shown", "show"]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A connection, for people to look at."""

    id: int
    user: str
    ip: str
    state: str
    """`handshake`, `open`, `closing` or `leaving`."""
    open_s: float
    silent_s: float
    topics: int
    waiting_bytes: int


def show(connection: Connection, now: int) -> Shown:
    """What is to be seen of it at tick `now`."""
    has = connection.topics
    return Shown(
        id=connection.serial,
        user=connection.user or "",
        ip=connection.ip,
        state=connection.phase.name.lower(),
        open_s=(now - connection.opened) * TICK_S,
        silent_s=(now - connection.heard) * TICK_S,
        topics=0 if has is None else len(has) if isinstance(has, set) else 1,
        waiting_bytes=0 if connection.outbox is None else connection.outbox.size,
    )


class Roster:
    """The connections of one process. As with topics, most users have one connection, and it stands in the table."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._all: dict[int, Connection] = {}
        self._users: dict[str, Connection | set[Connection]] = {}
        self._ips: dict[str, int] = {}
        self._shaking: dict[str, int] = {}
        """Handshakes under way, by address."""
        self._trusts = _trusted(settings.trusted_proxies)
        self.handshakes = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        """A copy: who looks may end some of them."""
        return iter(tuple(self._all.values()))

    def youngest(self) -> Iterator[Connection]:
        """The last that came first."""
        return reversed(tuple(self._all.values()))

    def get(self, serial: int) -> Connection | None:
        return self._all.get(serial)

    def refuses(self, ip: str) -> str:
        """Why one more may not begin its handshake; empty when it may."""
        settings = self._settings
        if len(self._all) >= settings.connections_max:
            return "full"
        if self.handshakes >= settings.handshakes_max:
            return "handshakes"
        if self._shaking.get(ip, 0) >= settings.handshakes_per_ip_max and not self._trusts(ip):
            return "handshakes of address"
        return "address" if self._ips.get(ip, 0) >= settings.connections_per_ip_max else ""

    def add(self, connection: Connection) -> None:
        """It begins its handshake."""
        connection.ip = sys.intern(connection.ip)  # behind a balancer all have the same
        self._all[connection.serial] = connection
        self._ips[connection.ip] = self._ips.get(connection.ip, 0) + 1
        self._shaking[connection.ip] = self._shaking.get(connection.ip, 0) + 1
        self.handshakes += 1

    def readdress(self, connection: Connection, ip: str) -> bool:
        """It comes from there, as a proxy says; False when that address has too many already."""
        if ip == connection.ip:
            return True
        if (
            self._ips.get(ip, 0) >= self._settings.connections_per_ip_max
            or self._shaking.get(ip, 0) >= self._settings.handshakes_per_ip_max
        ):
            return False
        _one_less(self._ips, connection.ip)
        _one_less(self._shaking, connection.ip)
        connection.ip = sys.intern(ip)
        self._ips[ip] = self._ips.get(ip, 0) + 1
        self._shaking[ip] = self._shaking.get(ip, 0) + 1
        return True

    def settle(self, connection: Connection, phase: Phase) -> None:
        """Its handshake is over: it is open, or refused."""
        assert connection.phase is Phase.HANDSHAKE
        self._shaken(connection)
        connection.phase = phase

    def name(self, connection: Connection, user: str) -> None:
        """It belongs to that user, and counts among his from now on."""
        connection.user = user
        there = self._users.get(user)
        if there is None:
            self._users[user] = connection
        elif isinstance(there, set):
            there.add(connection)
        else:
            self._users[user] = {there, connection}

    def count_of_user(self, user: str) -> int:
        there = self._users.get(user)
        return 0 if there is None else len(there) if isinstance(there, set) else 1

    def of_user(self, user: str) -> tuple[Connection, ...]:
        there = self._users.get(user)
        return () if there is None else tuple(there) if isinstance(there, set) else (there,)

    def remove(self, connection: Connection) -> None:
        """It is over; before its phase says so."""
        del self._all[connection.serial]
        if connection.phase is Phase.HANDSHAKE:
            self._shaken(connection)
        _one_less(self._ips, connection.ip)
        user = connection.user
        if user is None:
            return
        there = self._users[user]
        if isinstance(there, set):
            there.remove(connection)
            if len(there) == 1:
                (self._users[user],) = there
        else:
            del self._users[user]

    def _shaken(self, connection: Connection) -> None:
        self.handshakes -= 1
        _one_less(self._shaking, connection.ip)


def _one_less(counts: dict[str, int], ip: str) -> None:
    left = counts[ip] - 1
    if left:
        counts[ip] = left
    else:
        del counts[ip]


def _trusted(networks: tuple[str, ...]) -> Callable[[str], bool]:
    if not networks:
        return lambda _: False
    from dougong.http import Proxies

    return Proxies(networks).trusts
