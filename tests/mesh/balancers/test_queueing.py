"""Why these balancers: the same calls through each, in virtual time."""

from __future__ import annotations

from random import Random

import pytest
from tests.mesh.queueing import latencies, quantile

from dougong.mesh.balancers import LeastRequest, PeakEwma, RandomChoice, RoundRobin, observe
from dougong.mesh.host import Host

MEAN_S = 0.01


def hosts_of(count: int) -> list[Host]:
    return [Host(f"10.2.0.{index}:80") for index in range(count)]


def exponential(host: Host, random: Random) -> float:
    return random.expovariate(1 / MEAN_S)


def one_slow(host: Host, random: Random) -> float:
    return random.expovariate(1 / (MEAN_S * (20 if host.address == "10.2.0.0:80" else 1)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_choices_cut_the_tail(seed: int) -> None:
    """20 hosts, 85 % busy: by chance queues of one in seven hosts are long; two choices keep all of them short."""
    calls, per_s = 30_000, 0.85 * 20 / MEAN_S
    by_chance = latencies(RandomChoice(Random(seed)), hosts_of(20), exponential, calls=calls, per_s=per_s, seed=seed)
    two = latencies(LeastRequest(Random(seed)), hosts_of(20), exponential, calls=calls, per_s=per_s, seed=seed)
    assert quantile(two, 0.99) < 0.5 * quantile(by_chance, 0.99)
    assert sum(two) < 0.6 * sum(by_chance)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slow_host_costs_least_with_peak_ewma(seed: int) -> None:
    """10 hosts, one 20 times slower, 40 % load. In turn a tenth of all calls are slow; by calls in flight it is found
    empty now and then and tried again; its latency is remembered."""
    calls, per_s = 20_000, 0.4 * 10 / MEAN_S
    ewma = latencies(PeakEwma(Random(seed)), hosts_of(10), one_slow, calls=calls, per_s=per_s, seed=seed)
    two = latencies(LeastRequest(Random(seed)), hosts_of(10), one_slow, calls=calls, per_s=per_s, seed=seed)
    turns = latencies(RoundRobin(Random(seed)), hosts_of(10), one_slow, calls=calls, per_s=per_s, seed=seed)
    assert quantile(ewma, 0.99) < 0.7 * quantile(two, 0.99) < quantile(turns, 0.99)


def test_a_host_that_fails_at_once_is_no_fast_host() -> None:
    """Reported by how long it took, a refusal in no time draws the calls; reported as its time-out, it repels them."""
    for as_timeout, low, high in ((False, 0.5, 1.0), (True, 0.0, 0.1)):
        hosts, balancer, random = hosts_of(4), PeakEwma(Random(1)), Random(2)
        balancer.changed(hosts)
        broken = 0
        for call in range(2000):
            now = call / 1000
            host = balancer.pick(hosts, None, now)
            if host is hosts[0]:
                broken += 1
                observe(host, 3.0 if as_timeout else 0.0001, now)
            else:
                observe(host, random.expovariate(1 / MEAN_S), now)
        assert low < broken / 2000 < high


def test_a_peak_counts_at_once_and_fades_with_time() -> None:
    host = Host("a")
    balancer = PeakEwma(Random(1), decay_s=10.0)
    balancer.changed([host])
    assert balancer.load(host, 0.0) == 0.0
    host.in_flight = 1
    assert balancer.load(host, 0.0) > 1e9  # nobody knows yet how it does
    observe(host, 0.01, 0.0)
    assert balancer.load(host, 0.0) == pytest.approx(0.01 * 2 / 100)
    observe(host, 5.0, 0.0)
    assert balancer.load(host, 0.0) == pytest.approx(5.0 * 2 / 100)
    observe(host, 0.01, 0.0)
    assert balancer.load(host, 0.0) == pytest.approx(5.0 * 2 / 100)  # one good call is no recovery
    assert balancer.load(host, 10.0) == pytest.approx(5.0 * 2 / 100 / 2.718281828)


def test_a_new_host_warms_up_by_latency_too() -> None:
    """It looks as if its latency were ten times what it is, then less and less so."""
    hosts = hosts_of(2)
    hosts[1].joined_at = 100.0
    balancer = PeakEwma(Random(1), warmup_s=60.0)
    balancer.changed(hosts)
    for host in hosts:
        observe(host, 0.01, 100.0)
    loads = [balancer.load(hosts[1], 100.0 + age) / balancer.load(hosts[0], 100.0 + age) for age in (0, 30, 60)]
    assert loads == [pytest.approx(10.0), pytest.approx(2.0), pytest.approx(1.0)]
