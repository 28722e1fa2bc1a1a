"""Priorities: how near hosts are, and how much of the traffic each level gets while nearer ones are ill.

Shares are Envoy's. A level has more hosts than it needs by a factor of 1.4, so that it keeps everything until less than
100/1.4 = 71.4 % of it are healthy; then the next level gets what is missing:

    healthy in P0    share of P0, P1 (all of P1 healthy)
    100 % ... 72 %   100, 0
    71 %              99, 1
    50 %              70, 30
    25 %              35, 65
    0 %                0, 100

Who belongs to which level is Istio's reading of localities and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dougong.mesh.host import Host
from dougong.mesh.policy import LocalityPolicy

__all__ = ["Shares", "distribution", "matches", "priorities", "shares"]

_OVERPROVISIONING_PERCENT = 140


class Shares(msgspec.Struct, frozen=True):
    """Of the traffic, per level from the nearest on."""

    percent: tuple[int, ...]
    """Add up to 100."""
    panic: tuple[bool, ...]
    """Levels in which all hosts are used, ejected or not."""


def shares(levels: Sequence[tuple[int, int]], *, panic_percent: int = 0) -> Shares:
    """For levels of `(healthy, all)` hosts. Integers throughout, as Envoy counts: 71 % healthy are 99 %, not 99.4.

    Less than 100 % health in all levels together is scaled up to 100. Then a level with fewer healthy than
    `panic_percent` panics; when all do, each gets a share by its number of hosts.
    """
    health = [min(100, _OVERPROVISIONING_PERCENT * healthy // count) if count else 0 for healthy, count in levels]
    total = min(100, sum(health))
    none = (False,) * len(levels)
    if total == 0 and panic_percent == 0:
        return Shares(percent=(100, *(0 for _ in levels[1:])), panic=none)  # to nobody, as it turns out
    if total == 100:
        return Shares(percent=_split(health, 100), panic=none)
    panic = tuple(100 * healthy < panic_percent * count if count else panic_percent > 0 for healthy, count in levels)
    if all(panic):
        counts = [count for _, count in levels]
        return Shares(percent=_split(counts, sum(counts) or 1), panic=panic)
    return Shares(percent=_split(health, total), panic=panic)


def _split(parts: Sequence[int], whole: int) -> tuple[int, ...]:
    left, percent = 100, []
    for part in parts:
        percent.append(min(left, part * 100 // whole))
        left -= percent[-1]
    first = next((index for index, part in enumerate(parts) if part), 0)
    percent[first] += left  # what rounding left over
    return tuple(percent)


def priorities(hosts: Sequence[Host], policy: LocalityPolicy, locality: str, labels: Mapping[str, str]) -> list[int]:
    """The level of each host, 0 for the nearest, without gaps.

    By locality: 0 same subzone, 1 same zone, 2 same region, 3 elsewhere, 4 elsewhere while `failover` names another
    region. By `failover_priority`: the earlier the first label that differs from ours, the farther; an entry
    `label=value` asks for that value instead of ours. Both together: labels first.
    """
    raw = [0] * len(hosts)
    if policy.failover_priority and labels:
        wanted = [_wanted(entry, labels) for entry in policy.failover_priority]
        raw = [_by_labels(host, wanted) for host in hosts]
    if policy.failover or not policy.failover_priority:
        raw = [level * 5 + _by_place(host, policy, locality) for level, host in zip(raw, hosts, strict=True)]
    order = {level: place for place, level in enumerate(sorted(set(raw)))}
    return [order[level] for level in raw]


def _wanted(entry: str, labels: Mapping[str, str]) -> tuple[str, str]:
    label, given, value = entry.partition("=")
    return label, value if given else labels.get(label, "")


def _by_labels(host: Host, wanted: Sequence[tuple[str, str]]) -> int:
    for place, (label, value) in enumerate(wanted):
        if host.labels.get(label, "") != value:
            return len(wanted) - place
    return 0


def _by_place(host: Host, policy: LocalityPolicy, locality: str) -> int:
    ours, theirs = _parts(locality), _parts(host.locality)
    if ours[0] == theirs[0]:
        if ours[1] != theirs[1]:
            return 2
        return 0 if ours[2] == theirs[2] else 1
    chosen = policy.failover.get(ours[0])
    return 4 if chosen is not None and chosen != theirs[0] else 3


def distribution(localities: Sequence[str], weights: Sequence[float], policy: LocalityPolicy, ours: str) -> list[float]:
    """The weight of each locality, 0 for those that get nothing: `weights` as they are unless `distribute` says more.

    The first entry that matches our locality counts. A pattern that matches several shares its percent among them by
    weight, rounded up.
    """
    for source, targets in policy.distribute.items():
        if not matches(ours, source):
            continue
        given = [0.0] * len(localities)
        open_ = set(range(len(localities)))
        for pattern, percent in targets.items():
            found = [index for index in sorted(open_) if matches(localities[index], pattern)]
            open_ -= set(found)
            total = sum(weights[index] for index in found)
            for index in found:
                given[index] = float(-(-percent * weights[index] // total)) if total else 0.0
        return given
    return list(weights)


def matches(locality: str, pattern: str) -> bool:
    """Whether `region/zone/subzone` fits a pattern, in which `*` or nothing stands for any."""
    return all(
        want in ("*", have) or (want == "" and place > 0)
        for place, (have, want) in enumerate(zip(_parts(locality), _parts(pattern), strict=True))
    )


def _parts(locality: str) -> tuple[str, str, str]:
    parts = [*locality.split("/", 2), "", ""]
    return parts[0], parts[1], parts[2]
