"""Random: by chance. Envoy's random balancer knows no weights, and so does this."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dougong.mesh.host import Host
from dougong.mesh.p2c import no_endpoint

__all__ = ["RandomChoice"]


class RandomChoice:
    """Each usable host is as likely as the others."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._panic = False

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        count = len(hosts)
        if count:
            host = hosts[int(self._random.random() * count)]
            if not host.away or self._panic:
                return host
            usable = [host for host in hosts if not host.away]
            if usable:
                return usable[int(self._random.random() * len(usable))]
        raise no_endpoint(count)

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        self._panic = panic
