"""What holds for every balancer: shares, ejections, panic, seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dougong.errors import Unavailable
from dougong.mesh.balancers import Balancer, LeastRequest, RandomChoice, RoundRobin, make_balancer, observe
from dougong.mesh.host import Host
from dougong.mesh.policy import BalancerKind, Balancing, LocalityPolicy

KINDS = st.sampled_from(BalancerKind)
LOCALITIES = st.none() | st.just(LocalityPolicy())


def hosts_of(*weights: int) -> list[Host]:
    return [Host(f"10.0.0.{index}:80", weight=weight) for index, weight in enumerate(weights)]


def made(kind: BalancerKind, locality: LocalityPolicy | None, seed: int) -> Balancer:
    return make_balancer(Balancing(kind=kind, locality=locality, maglev_size=251), Random(seed), locality="r/z/s")


def shares_of(balancer: Balancer, hosts: Sequence[Host], picks: int) -> list[float]:
    balancer.changed(hosts)
    counts = Counter(balancer.pick(hosts, None, 0.0) for _ in range(picks))
    return [counts[host] / picks for host in hosts]


HOSTS = st.lists(
    st.tuples(st.integers(1, 300), st.booleans(), st.integers(0, 5), st.sampled_from(["r/z/s", "r/z/t", "q/z/s"])),
    max_size=8,
)


@given(KINDS, LOCALITIES, HOSTS, st.integers(), st.none() | st.integers(0, 2**64 - 1), st.booleans())
def test_a_usable_host_or_nobody(
    kind: BalancerKind,
    locality: LocalityPolicy | None,
    given_hosts: list[tuple[int, bool, int, str]],
    seed: int,
    key: int | None,
    late: bool,
) -> None:
    """Whether the balancer was told of ejections or meets them while picking."""
    balancer = made(kind, locality, seed)
    hosts = [Host(f"h{i}", weight=weight, locality=place) for i, (weight, _, _, place) in enumerate(given_hosts)]
    if late:
        balancer.changed(hosts)
    for host, (_, ejected, in_flight, _) in zip(hosts, given_hosts, strict=True):
        host.away, host.in_flight = ejected, in_flight
    if not late:
        balancer.changed(hosts)
    for now in (0.0, 0.05, 1.0):
        if all(host.away for host in hosts):
            with pytest.raises(Unavailable) as raised:
                balancer.pick(hosts, key, now)
            assert raised.value.code == "no_endpoint"
        else:
            picked = balancer.pick(hosts, key, now)
            assert not picked.away
            assert picked in hosts


@given(KINDS, LOCALITIES, HOSTS.filter(bool), st.integers())
def test_in_panic_nobody_cares_who_is_ejected(
    kind: BalancerKind, locality: LocalityPolicy | None, given_hosts: list[tuple[int, bool, int, str]], seed: int
) -> None:
    balancer = made(kind, locality, seed)
    hosts = [Host(f"h{i}", weight=weight, locality=place) for i, (weight, _, _, place) in enumerate(given_hosts)]
    for host in hosts:
        host.away = True
    balancer.changed(hosts, panic=True)
    assert balancer.pick(hosts, None, 0.0) in hosts


@pytest.mark.parametrize("kind", BalancerKind)
def test_an_ejected_host_comes_back_announced_or_not(kind: BalancerKind) -> None:
    for announced in (True, False):
        hosts = hosts_of(1, 2, 3)
        balancer = made(kind, None, 1)
        balancer.changed(hosts)
        random = Random(2)
        hosts[1].away = True
        seen = Counter(balancer.pick(hosts, random.getrandbits(64), 0.0) for _ in range(300))
        assert seen[hosts[1]] == 0
        hosts[1].away = False
        if announced:
            balancer.changed(hosts)
        seen = Counter(balancer.pick(hosts, random.getrandbits(64), 0.0) for _ in range(300))
        assert seen[hosts[1]] > 0


@pytest.mark.parametrize("kind", BalancerKind)
def test_a_seed_replays_the_picks(kind: BalancerKind) -> None:
    def picks(seed: int) -> list[str]:
        hosts = hosts_of(*range(1, 10))
        balancer = made(kind, None, seed)
        balancer.changed(hosts)
        return [balancer.pick(hosts, None, 0.0).address for _ in range(50)]

    assert picks(3) == picks(3) != picks(4)


@pytest.mark.parametrize("make", [LeastRequest, RoundRobin, RandomChoice], ids=lambda make: make.__name__)
def test_equals_share_evenly(make: Callable[[Random], Balancer]) -> None:
    for share in shares_of(make(Random(7)), hosts_of(1, 1, 1, 1), 8000):
        assert abs(share - 0.25) < 0.02


@pytest.mark.parametrize("make", [LeastRequest, RoundRobin], ids=lambda make: make.__name__)
def test_weights_are_shares(make: Callable[[Random], Balancer]) -> None:
    """Exactly so: a schedule is not a draw."""
    for got, want in zip(shares_of(make(Random(7)), hosts_of(1, 2, 3, 4), 1000), (0.1, 0.2, 0.3, 0.4), strict=True):
        assert abs(got - want) <= 0.002


@pytest.mark.parametrize("kind", [BalancerKind.RING_HASH, BalancerKind.MAGLEV])
def test_weights_are_shares_of_the_keys(kind: BalancerKind) -> None:
    for got, want in zip(shares_of(made(kind, None, 7), hosts_of(1, 2, 3, 4), 20_000), (1, 2, 3, 4), strict=True):
        assert got == pytest.approx(want / 10, rel=0.2)


def test_random_knows_no_weights() -> None:
    for share in shares_of(RandomChoice(Random(7)), hosts_of(1, 100), 4000):
        assert abs(share - 0.5) < 0.03


def test_who_has_more_to_do_gets_less_of_its_weight() -> None:
    """weight / (in_flight + 1): of weights 2 and 1 with 3 and 0 calls in flight the shares are 1/2 and 1."""
    hosts = hosts_of(2, 1)
    hosts[0].in_flight = 3
    assert shares_of(LeastRequest(Random(1)), hosts, 3000)[0] == pytest.approx(1 / 3, abs=0.01)
    assert shares_of(LeastRequest(Random(1), bias=0.0), hosts, 3000)[0] == pytest.approx(2 / 3, abs=0.01)
    assert shares_of(LeastRequest(Random(1), bias=2.0), hosts, 3000)[0] == pytest.approx(1 / 9, abs=0.01)


class Life(RuleBasedStateMachine):
    """Hosts come, go, are ejected and come back, change weight and place; calls begin and end."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[Host] = []
        self.now = 0.0
        self.born = 0

    @initialize(kind=KINDS, locality=LOCALITIES, seed=st.integers(0, 99), warmup_s=st.sampled_from([0.0, 5.0]))
    def begin(self, kind: BalancerKind, locality: LocalityPolicy | None, seed: int, warmup_s: float) -> None:
        self.balancer = make_balancer(
            Balancing(kind=kind, locality=locality, maglev_size=2503, ring_size_min=64, warmup_s=warmup_s),
            Random(seed),
            locality="r/z/s",
        )

    @rule(place=st.sampled_from(["r/z/s", "r/z/t", "q/z/s"]), weight=st.integers(0, 3))
    def a_host_comes(self, place: str, weight: int) -> None:
        host = Host(f"h{self.born}", locality=place, weight=weight)
        host.joined_at = self.now
        self.born += 1
        self.hosts.append(host)
        self.balancer.changed(self.hosts)

    @rule(which=st.integers(0, 99))
    def one_goes(self, which: int) -> None:
        if self.hosts:
            self.hosts.pop(which % len(self.hosts))
            self.balancer.changed(self.hosts)

    @rule(which=st.integers(0, 99), away=st.booleans(), announced=st.booleans())
    def one_is_ejected_or_back(self, which: int, away: bool, announced: bool) -> None:
        if self.hosts:
            self.hosts[which % len(self.hosts)].away = away
            if announced:
                self.balancer.changed(self.hosts)

    @rule(which=st.integers(0, 99), place=st.sampled_from(["r/z/s", "r/z/t", "q/z/s"]), weight=st.integers(0, 3))
    def one_moves(self, which: int, place: str, weight: int) -> None:
        if self.hosts:
            host = self.hosts[which % len(self.hosts)]
            host.locality, host.weight = place, weight
            self.balancer.changed(self.hosts)

    @rule(key=st.none() | st.integers(0, 2**64 - 1), seconds=st.floats(0.1, 9.0), kept=st.booleans())
    def a_call(self, key: int | None, seconds: float, kept: bool) -> None:
        self.now += seconds
        if all(host.away for host in self.hosts):
            with pytest.raises(Unavailable):
                self.balancer.pick(self.hosts, key, self.now)
            return
        picked = self.balancer.pick(self.hosts, key, self.now)
        assert not picked.away
        assert picked in self.hosts
        picked.in_flight += kept
        observe(picked, seconds, self.now)


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=40)
