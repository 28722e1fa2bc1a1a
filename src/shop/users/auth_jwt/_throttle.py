"""How often somebody may try a password: pure, the time is passed in.

GCRA (the generic cell rate algorithm of ATM, I.371): one number per key, the time at which an empty allowance would be
full again. It allows `burst` at once and one more each `every_s`, exactly, without a timer and without a counter that
starts anew at a round time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

import msgspec

from dougong.errors import Overloaded

__all__ = ["Allowance", "LoginLimits", "LoginThrottle", "Rate", "network_of"]


class Rate(msgspec.Struct, frozen=True):
    """`burst` at once, then one each `every_s`."""

    burst: int
    every_s: float


class Allowance:
    """What is left to each of at most `keys_max` keys; of more, who was not seen for longest begins anew."""

    def __init__(self, rate: Rate, keys_max: int) -> None:
        self._rate = rate
        self._keys_max = keys_max
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until `key` may be charged; 0 for at once."""
        full_at = self._full_at.get(key, now)
        return max(0.0, full_at - now - (self._rate.burst - 1) * self._rate.every_s)

    def charge(self, key: str, now: float) -> None:
        """Take one. Ask `wait_s` first: this does not refuse."""
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._rate.every_s
        self._full_at.move_to_end(key)
        while len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)

    def refund(self, key: str) -> None:
        """Give one back that was charged."""
        if key in self._full_at:
            self._full_at[key] -= self._rate.every_s


class LoginLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process. What succeeds is given back: these are limits on failing."""

    address: Rate = Rate(30, 2.0)
    account: Rate = Rate(10, 30.0)
    """For all strangers together: addresses that have not logged in to the account lately."""
    known: Rate = Rate(10, 30.0)
    """For one address that has."""
    known_s: float = 30 * 86_400.0
    keys_max: int = 100_000
    """Of each kind."""


class LoginThrottle:
    """Charged before a password is looked at, by account and by address.

    A stranger who fails all day uses up the strangers' allowance of an account, never that of an address from which
    its owner has logged in. Whether an account exists makes no difference.
    """

    def __init__(self, limits: LoginLimits) -> None:
        self._limits = limits
        self._addresses = Allowance(limits.address, limits.keys_max)
        self._strangers = Allowance(limits.account, limits.keys_max)
        self._friends = Allowance(limits.known, limits.keys_max)
        self._known: OrderedDict[str, float] = OrderedDict()

    def charge(self, account: str, address: str, now: float) -> Charge:
        """Take one of each, or raise `Overloaded` (`login_throttled`) with the time to wait, having taken nothing."""
        network = network_of(address)
        pair = _key(account, network)
        parts = [(self._addresses, network)]
        known = self._is_known(pair, now)
        if known:
            parts.append((self._friends, pair))
        else:
            parts.append((self._strangers, _key(account)))
        wait_s = max(allowance.wait_s(key, now) for allowance, key in parts)
        if wait_s > 0:
            raise Overloaded(
                "too many failed log-ins; try again later", code="login_throttled", retry_after_s=max(1.0, wait_s)
            )
        for allowance, key in parts:
            allowance.charge(key, now)
        return Charge(tuple(parts), pair, known)

    def refund(self, charge: Charge) -> None:
        """Nothing was found out about the password."""
        for allowance, key in charge.parts:
            allowance.refund(key)

    def succeeded(self, charge: Charge, now: float) -> None:
        """The password was right: what was charged is given back, and the address is known from now on."""
        self.refund(charge)
        self._known[charge.pair] = now + self._limits.known_s
        self._known.move_to_end(charge.pair)
        while len(self._known) > self._limits.keys_max:
            self._known.popitem(last=False)

    def _is_known(self, pair: str, now: float) -> bool:
        return self._known.get(pair, 0.0) > now


class Charge(msgspec.Struct, frozen=True):
    """What one attempt took."""

    parts: tuple[tuple[Allowance, str], ...]
    pair: str
    known: bool
    """Whether the address has logged in to the account lately."""


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the /64, of which every customer has at least one whole."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""  # all who have none share one allowance
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped is not None else str(ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def _key(*parts: str) -> str:
    """Of one length, whatever a stranger types."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
