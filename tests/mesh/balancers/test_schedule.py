"""Turns by weight: even, from a random start, and slower for who is new."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.balancers import LeastRequest, RoundRobin
from dougong.mesh.balancers.schedule import Schedule, warm_share
from dougong.mesh.host import Host


def weigh(host: Host, now: float) -> float:
    return float(host.weight)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers())
def test_everybody_keeps_up_with_its_weight_at_every_moment(weights: list[int], seed: int) -> None:
    """After n picks nobody is more than a few turns off n * weight / total, wherever the schedule began."""
    hosts = [Host(str(index), weight=weight) for index, weight in enumerate(weights)]
    schedule = Schedule(hosts, weigh, Random(seed), 0.0)
    counts: Counter[Host | None] = Counter()
    for picks in range(1, 3 * sum(weights)):
        counts[schedule.pick(0.0)] += 1
        for host in hosts:
            assert abs(counts[host] - picks * host.weight / sum(weights)) <= len(hosts)


def test_bursts_are_spread() -> None:
    hosts = [Host("a", weight=5), Host("b", weight=1), Host("c", weight=1)]
    balancer = RoundRobin(Random(1))
    balancer.changed(hosts)
    picked = "".join(balancer.pick(hosts, None, 0.0).address for _ in range(70))
    assert Counter(picked) == {"a": 50, "b": 10, "c": 10}
    assert "aaaaaa" not in picked


def test_clients_that_start_together_start_apart() -> None:
    for weights in ((1, 1, 1, 1), (4, 3, 2, 1)):
        hosts = [Host(str(index), weight=weight) for index, weight in enumerate(weights)]
        first: Counter[Host] = Counter()
        for seed in range(2000):
            balancer = RoundRobin(Random(seed))
            balancer.changed(hosts)
            first[balancer.pick(hosts, None, 0.0)] += 1
        for host in hosts:
            assert abs(first[host] / 2000 - host.weight / sum(weights)) < 0.04


def test_a_new_host_warms_up() -> None:
    host = Host("new")
    host.joined_at = 100.0
    assert [warm_share(host, 100.0 + age, 60.0) for age in (0, 3, 30, 60, 90)] == [0.1, 0.1, 0.5, 1.0, 1.0]


def test_its_share_rises_with_time_and_the_schedule_ends() -> None:
    hosts = [Host("old"), Host("new")]
    hosts[1].joined_at = 100.0
    for make in (RoundRobin, LeastRequest):
        balancer = make(Random(1), warmup_s=60.0)
        balancer.changed(hosts)
        for age, want in ((0, 1 / 11), (30, 1 / 3), (60, 1 / 2)):
            picks = Counter(balancer.pick(hosts, None, 100.0 + age) for _ in range(3000))
            assert abs(picks[hosts[1]] / 3000 - want) < 0.03


def test_hosts_of_the_same_age_share_evenly_while_warm_up_lasts() -> None:
    hosts = [Host("a"), Host("b")]
    balancer = RoundRobin(Random(1), warmup_s=60.0)
    balancer.changed(hosts)
    assert Counter(balancer.pick(hosts, None, 5.0) for _ in range(100)) == {hosts[0]: 50, hosts[1]: 50}
