"""What every balancer can do, and how a cluster talks to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dougong.mesh.host import Host

__all__ = ["Balancer"]


class Balancer(Protocol):
    """Decides who gets a call. Counts nothing itself: `in_flight`, `ejected` and `weight` are read off the hosts."""

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        """One of `hosts` that is not ejected, by 64-bit `key` where the balancer hashes.

        `now` is monotonic seconds. Raises `Unavailable` (`no_endpoint`) when nobody is left to choose from.
        """

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        """`hosts` (all of them, ejected or not, in stable order) are new, or a weight or an ejection changed.

        What costs more than a pick is done here: rings, tables, schedules. An ejection that is not announced is passed
        over by every pick all the same. In `panic` nobody cares who is ejected.
        """
