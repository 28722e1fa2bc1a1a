"""Subsets: the hosts that carry given labels (`version: v2`), as a DestinationRule names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dougong.mesh.host import Host

__all__ = ["subset"]


def subset(hosts: Sequence[Host], labels: Mapping[str, str]) -> tuple[Host, ...]:
    """Those with all of `labels`, in their order. No labels: everybody."""
    wanted = labels.items()
    return tuple(host for host in hosts if wanted <= host.labels.items())
