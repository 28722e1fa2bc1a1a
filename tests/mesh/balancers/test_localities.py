"""Near hosts first: Istio's priorities, Envoy's shares."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Unavailable
from dougong.mesh.balancers import Localities, hash64, make_balancer, shares, subset
from dougong.mesh.balancers.priorities import distribution, matches, priorities
from dougong.mesh.host import Host
from dougong.mesh.policy import BalancerKind, Balancing, LocalityPolicy

OURS = "europe/berlin/a"


def spread(
    policy: LocalityPolicy, *, kind: BalancerKind = BalancerKind.ROUND_ROBIN, failover: bool = True, panic: int = 0
) -> Localities:
    made = make_balancer(
        Balancing(kind=kind, locality=policy, maglev_size=251),
        Random(1),
        locality=OURS,
        failover=failover,
        panic_percent=panic,
    )
    assert isinstance(made, Localities)
    return made


def places(*localities: str) -> list[Host]:
    return [Host(f"{index}@{locality}", locality=locality) for index, locality in enumerate(localities)]


def by_locality(balancer: Localities, hosts: list[Host], picks: int = 2000) -> dict[str, float]:
    counts = Counter(balancer.pick(hosts, None, 0.0).locality for _ in range(picks))
    return {locality: count / picks for locality, count in counts.items()}


@pytest.mark.parametrize(
    ("healthy", "nearest"), [(100, 100), (80, 100), (72, 100), (71, 99), (50, 70), (25, 35), (0, 0)]
)
def test_the_table_of_envoys_documentation(healthy: int, nearest: int) -> None:
    assert shares([(healthy, 100), (100, 100)]).percent == (nearest, 100 - nearest)


@pytest.mark.parametrize(
    ("health", "percent"),
    [
        ((100, 100, 100), (100, 0, 0)),
        ((72, 72, 100), (100, 0, 0)),
        ((71, 71, 100), (99, 1, 0)),
        ((50, 50, 100), (70, 30, 0)),
        ((25, 100, 100), (35, 65, 0)),
        ((25, 25, 100), (35, 35, 30)),
        ((25, 25, 20), (37, 35, 28)),  # health 35, 35, 28 is scaled up by 100/98; what rounding leaves is P0's
        ((0, 10, 0), (0, 100, 0)),
        ((0, 0, 0), (100, 0, 0)),
    ],
)
def test_three_levels(health: tuple[int, ...], percent: tuple[int, ...]) -> None:
    assert shares([(healthy, 100) for healthy in health]).percent == percent


@given(
    st.lists(st.integers(0, 20).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))), min_size=1),
    st.integers(0, 100),
)
def test_shares_add_up_and_the_empty_get_nothing(levels: list[tuple[int, int]], panic: int) -> None:
    found = shares(levels, panic_percent=panic)
    assert sum(found.percent) == 100
    if any(healthy for healthy, _ in levels):
        for (healthy, _), percent, panicking in zip(levels, found.percent, found.panic, strict=True):
            assert healthy or panicking or percent == 0
    if panic == 0:
        assert not any(found.panic)


def test_enough_health_in_all_levels_together_is_no_panic() -> None:
    """Envoy: a level panics only while levels together have less than 100 % to offer."""
    assert shares([(1, 10), (10, 10)], panic_percent=50).panic == (False, False)
    assert shares([(1, 10), (4, 10)], panic_percent=50).panic == (True, True)
    assert shares([(1, 10), (4, 10)], panic_percent=50).percent == (50, 50)
    assert shares([(1, 10), (4, 10)], panic_percent=30).panic == (True, False)
    assert shares([(0, 10), (0, 30)], panic_percent=1).percent == (25, 75)


def test_priorities_by_place() -> None:
    hosts = places("asia/tokyo/a", OURS, "europe/berlin/b", "europe/paris/a", "us/east/a", "europe/berlin/a")
    assert priorities(hosts, LocalityPolicy(), OURS, {}) == [3, 0, 1, 2, 3, 0]
    chosen = LocalityPolicy(failover={"europe": "us"})
    assert priorities(hosts, chosen, OURS, {}) == [4, 0, 1, 2, 3, 0]


def test_priorities_have_no_gaps() -> None:
    assert priorities(places("asia/tokyo/a", "europe/paris/a"), LocalityPolicy(), OURS, {}) == [1, 0]


def test_priorities_by_label() -> None:
    """The earlier the label that differs, the farther; `label=value` asks for that value instead of ours."""
    policy = LocalityPolicy(failover_priority=("rack", "version=v2"))
    hosts = [
        Host("a", labels={"rack": "1", "version": "v2"}),
        Host("b", labels={"rack": "1", "version": "v1"}),
        Host("c", labels={"rack": "2", "version": "v2"}),
        Host("d"),
    ]
    assert priorities(hosts, policy, "", {"rack": "1", "version": "v1"}) == [0, 1, 2, 2]


def test_labels_first_then_place() -> None:
    policy = LocalityPolicy(failover_priority=("rack",), failover={"europe": "us"})
    hosts = [
        Host("a", labels={"rack": "1"}, locality="us/east/a"),
        Host("b", labels={"rack": "1"}, locality=OURS),
        Host("c", locality=OURS),
        Host("d", locality="asia/tokyo/a"),
    ]
    assert priorities(hosts, policy, OURS, {"rack": "1"}) == [1, 0, 2, 3]


def test_patterns() -> None:
    assert matches(OURS, "europe/berlin/a")
    assert matches(OURS, "europe/berlin/*")
    assert matches(OURS, "europe/*")
    assert matches(OURS, "europe")
    assert matches(OURS, "*")
    assert not matches(OURS, "europe/berlin/b")
    assert not matches(OURS, "asia/*")


def test_the_near_ones_keep_all_calls_until_too_many_are_ill() -> None:
    hosts = places(*[OURS] * 10, *["asia/tokyo/a"] * 10)
    balancer = spread(LocalityPolicy())
    for ejected, want in ((0, 1.0), (2, 1.0), (5, 0.7), (10, 0.0)):
        for index in range(10):
            hosts[index].away = index < ejected
        balancer.changed(hosts)
        assert by_locality(balancer, hosts).get(OURS, 0.0) == pytest.approx(want, abs=0.03)


def test_ejections_nobody_announced_are_noticed() -> None:
    hosts = places(*[OURS] * 10, *["asia/tokyo/a"] * 10)
    balancer = spread(LocalityPolicy())
    balancer.changed(hosts)
    balancer.pick(hosts, None, 0.0)
    for host in hosts[:5]:
        host.away = True
    counts = Counter(balancer.pick(hosts, None, 1.0).locality for _ in range(2000))
    assert counts[OURS] / 2000 == pytest.approx(0.7, abs=0.03)
    for host in hosts[:10]:
        host.away = True
    assert balancer.pick(hosts, None, 1.0).locality == "asia/tokyo/a"  # at once: nobody was left where it looked


def test_without_failover_all_are_equally_near() -> None:
    hosts = places(OURS, "asia/tokyo/a")
    balancer = spread(LocalityPolicy(), failover=False)
    balancer.changed(hosts)
    assert by_locality(balancer, hosts)[OURS] == pytest.approx(0.5, abs=0.04)


def test_distribute_says_how_much_goes_where() -> None:
    policy = LocalityPolicy(
        distribute={"asia/*": {"asia/*": 100}, "europe/berlin/*": {"europe/berlin/*": 80, "europe/paris/*": 20}}
    )
    hosts = places(OURS, "europe/berlin/b", "europe/paris/a", "asia/tokyo/a")
    for kind in (BalancerKind.ROUND_ROBIN, BalancerKind.LEAST_REQUEST, BalancerKind.RING_HASH, BalancerKind.MAGLEV):
        balancer = spread(policy, kind=kind)
        balancer.changed(hosts)
        got = by_locality(balancer, hosts, 10_000)
        assert got[OURS] == pytest.approx(0.4, abs=0.05)
        assert got["europe/berlin/b"] == pytest.approx(0.4, abs=0.05)
        assert got["europe/paris/a"] == pytest.approx(0.2, abs=0.05)
        assert "asia/tokyo/a" not in got


def test_a_locality_gives_traffic_away_as_it_falls_ill() -> None:
    """80 : 20, and half of the first one's hosts are left: 80 * 0.7 = 56 : 20."""
    policy = LocalityPolicy(distribute={"*": {"europe/berlin/*": 80, "europe/paris/*": 20}})
    hosts = places(*["europe/berlin/a"] * 4, *["europe/paris/a"] * 4)
    for host in hosts[:2]:
        host.away = True
    balancer = spread(policy)
    balancer.changed(hosts)
    assert by_locality(balancer, hosts, 4000)["europe/berlin/a"] == pytest.approx(56 / 76, abs=0.03)


def test_a_pattern_of_several_localities_shares_its_percent_by_weight() -> None:
    policy = LocalityPolicy(distribute={"*": {"europe/*": 90, "*": 10}})
    got = distribution(["europe/a", "europe/b", "us/a"], [200.0, 100.0, 100.0], policy, "us/a")
    assert got == [60.0, 30.0, 10.0]


def test_a_key_stays_in_its_level_and_with_its_host() -> None:
    hosts = places(*[OURS] * 4, *["asia/tokyo/a"] * 4)
    for host in hosts[:2]:
        host.away = True
    balancer = spread(LocalityPolicy(), kind=BalancerKind.RING_HASH)
    balancer.changed(hosts)
    keys = [hash64(str(number)) for number in range(2000)]
    first = [balancer.pick(hosts, key, 0.0) for key in keys]
    assert first == [balancer.pick(hosts, key, 5.0) for key in keys]
    assert sum(host.locality == OURS for host in first) / 2000 == pytest.approx(0.7, abs=0.04)


def test_panic_uses_everybody_where_too_few_are_left() -> None:
    hosts = places(*[OURS] * 4)
    for host in hosts:
        host.away = True
    calm, anxious = spread(LocalityPolicy()), spread(LocalityPolicy(), panic=50)
    calm.changed(hosts)
    anxious.changed(hosts)
    with pytest.raises(Unavailable):
        calm.pick(hosts, None, 0.0)
    assert anxious.pick(hosts, None, 0.0) in hosts
    assert anxious.shares.panic == (True,)


def test_a_subset_is_who_carries_the_labels() -> None:
    hosts = [Host("a", labels={"version": "v1", "rack": "1"}), Host("b", labels={"version": "v2"}), Host("c")]
    assert subset(hosts, {"version": "v1"}) == (hosts[0],)
    assert subset(hosts, {"version": "v1", "rack": "2"}) == ()
    assert subset(hosts, {}) == tuple(hosts)


def test_a_host_that_moves_changes_its_level() -> None:
    hosts = places(OURS, OURS, "asia/tokyo/a")
    balancer = spread(LocalityPolicy())
    balancer.changed(hosts)
    assert by_locality(balancer, hosts) == {OURS: 1.0}
    hosts[0].locality = hosts[1].locality = "us/east/a"
    hosts[2].locality = OURS
    balancer.changed(hosts)
    assert {balancer.pick(hosts, None, 0.0) for _ in range(50)} == {hosts[2]}
