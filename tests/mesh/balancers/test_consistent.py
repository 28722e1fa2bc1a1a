"""Ring and Maglev: a key stays where it is, and when a host goes hardly any other key moves."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.mesh.balancers import Balancer, Maglev, RingHash, hash64
from dougong.mesh.host import Host

Hashing = type[RingHash] | type[Maglev]
KEYS = [hash64(f"customer-{number}") for number in range(20_000)]


def hosts_of(count: int) -> list[Host]:
    return [Host(f"10.1.0.{index}:8080") for index in range(count)]


def owners(balancer: Balancer, hosts: list[Host]) -> list[Host]:
    balancer.changed(hosts)
    return [balancer.pick(hosts, key, 0.0) for key in KEYS]


def moved(before: list[Host], after: list[Host], gone: Host) -> tuple[float, float]:
    """The share of keys that changed hands, and of those that need not have."""
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one is not other]
    return len(changed) / len(KEYS), sum(one is not gone for one, _ in changed) / len(KEYS)


@pytest.mark.parametrize("count", [3, 10, 40])
@pytest.mark.parametrize("make", [RingHash, Maglev])
def test_who_leaves_takes_about_one_nth(make: Hashing, count: int) -> None:
    hosts = hosts_of(count)
    before = owners(make(Random(1)), hosts)
    gone = hosts[count // 2]
    after = owners(make(Random(2)), [host for host in hosts if host is not gone])
    share, needless = moved(before, after, gone)
    if make is Maglev:
        assert share < 1 / count + 0.04
        assert needless < 0.03
    else:  # the ring keeps its size, so those who stay get the points of who leaves, at other places
        assert share < 2 / count + 0.05
        assert needless < 1 / count


def test_with_as_many_points_as_before_a_ring_moves_nothing_needlessly() -> None:
    hosts = hosts_of(10)
    before = owners(RingHash(Random(1), ring_size_min=640), hosts)
    after = owners(RingHash(Random(2), ring_size_min=576), [host for host in hosts if host is not hosts[3]])
    share, needless = moved(before, after, hosts[3])
    assert needless == 0.0
    assert 0.05 < share < 0.15


def test_modulo_would_move_nearly_all() -> None:
    """What consistent hashing is there for."""
    before, after = [key % 10 for key in KEYS], [key % 9 for key in KEYS]
    assert sum(one != other for one, other in zip(before, after, strict=True)) / len(KEYS) > 0.85


@pytest.mark.parametrize("make", [RingHash, Maglev])
def test_an_ejection_nobody_announced_moves_the_keys_of_that_host_and_no_others(
    make: Hashing,
) -> None:
    hosts = hosts_of(10)
    balancer = make(Random(1))
    before = owners(balancer, hosts)
    hosts[4].away = True
    after = [balancer.pick(hosts, key, 0.0) for key in KEYS]
    share, needless = moved(before, after, hosts[4])
    assert share == sum(host is hosts[4] for host in before) / len(KEYS)
    assert needless == 0.0
    assert len({host for was, host in zip(before, after, strict=True) if was is hosts[4]}) > 1


def test_loads_vary_as_theory_says() -> None:
    """A ring of 1,024 points over 10 hosts: about 1/sqrt(103) = 10 %. Maglev: less than 1 % of 65,537 places."""
    hosts = hosts_of(10)
    ring, table = RingHash(Random(1)), Maglev(Random(1))
    spreads: tuple[tuple[Balancer, float, float], ...] = ((ring, 0.03, 0.2), (table, 0.0, 0.01))
    for balancer, low, high in spreads:
        balancer.changed(hosts)
        random = Random(5)
        draws = 200_000
        counts = Counter(balancer.pick(hosts, random.getrandbits(64), 0.0) for _ in range(draws))
        spread = pstdev(counts[host] for host in hosts) / (draws / 10)
        assert low <= spread <= high + 0.003


def test_more_points_are_evener() -> None:
    hosts = hosts_of(10)
    spreads = []
    for size in (64, 1024, 16_384):
        counts = Counter(owners(RingHash(Random(1), ring_size_min=size), hosts))
        spreads.append(pstdev(counts[host] for host in hosts))
    assert spreads[0] > 1.5 * spreads[1] > 2 * spreads[2]


@given(st.permutations(range(8)), st.integers(0, 2**64 - 1), st.booleans())
def test_the_order_of_hosts_does_not_matter(order: list[int], key: int, maglev: bool) -> None:
    hosts = hosts_of(8)
    one, other = (Maglev(Random(seed), table_size=251) if maglev else RingHash(Random(seed)) for seed in (1, 2))
    one.changed(hosts)
    other.changed([hosts[index] for index in order])
    assert one.pick(hosts, key, 0.0) is other.pick(hosts, key, 0.0)


def test_the_ends_of_the_ring() -> None:
    hosts = hosts_of(3)
    balancer = RingHash(Random(1))
    balancer.changed(hosts)
    points = sorted((hash64(f"{host.address}_{turn}"), host) for host in hosts for turn in range(342))
    assert balancer.pick(hosts, 0, 0.0) is points[0][1]
    assert balancer.pick(hosts, points[5][0], 0.0) is points[5][1]
    assert balancer.pick(hosts, points[5][0] + 1, 0.0) is points[6][1]
    assert balancer.pick(hosts, 2**64 - 1, 0.0) is points[0][1]


def test_the_lightest_host_stands_on_the_ring_a_whole_number_of_times() -> None:
    hosts = [Host("a", weight=1), Host("b", weight=2000)]
    balancer = RingHash(Random(1))
    balancer.changed(hosts)
    random = Random(1)
    counts = Counter(balancer.pick(hosts, random.getrandbits(64), 0.0) for _ in range(200_000))
    assert 0 < counts[hosts[0]] < 2000


def test_a_maglev_table_has_a_prime_size() -> None:
    with pytest.raises(Invalid) as raised:
        Maglev(Random(1), table_size=65_536)
    assert raised.value.code == "maglev_table_size"


def test_a_maglev_table_is_shared_out_in_turns() -> None:
    """Nobody has more than one place more than another of its weight."""
    hosts = hosts_of(7)
    balancer = Maglev(Random(1), table_size=251)
    balancer.changed(hosts)
    counts = Counter(balancer.pick(hosts, place, 0.0) for place in range(251))
    assert set(counts.values()) == {35, 36}


def test_while_a_table_is_filled_the_old_one_answers_less_those_who_have_gone() -> None:
    hosts = hosts_of(5)
    balancer = Maglev(Random(1))
    before = owners(balancer, hosts)
    gone, new = hosts[0], Host("10.1.0.99:8080")
    balancer.changed([*hosts[1:], new])
    seen = [balancer.pick(hosts, key, 0.0) for key in KEYS[:60]]
    assert gone not in seen
    assert new not in seen
    assert all(was is host for was, host in zip(before, seen, strict=False) if was is not gone)
    seen = [balancer.pick(hosts, key, 0.0) for key in KEYS]
    assert gone not in seen
    assert new in seen
    assert owners(Maglev(Random(2)), [*hosts[1:], new])[100:] == seen[100:]


def test_a_table_of_nobody_that_stayed_is_filled_at_once() -> None:
    hosts, others = hosts_of(3), [Host("a"), Host("b")]
    balancer = Maglev(Random(1))
    balancer.changed(hosts)
    balancer.changed(others)
    assert {balancer.pick(others, key, 0.0) for key in KEYS[:50]} == set(others)


@pytest.mark.parametrize("make", [RingHash, Maglev])
def test_others_are_back_when_all_that_were_there_are_ejected(make: Hashing) -> None:
    """Though nobody said so."""
    hosts = hosts_of(4)
    hosts[0].away = hosts[1].away = True
    balancer = make(Random(1))
    before = owners(balancer, hosts)
    assert set(before) == set(hosts[2:])
    for host in hosts:
        host.away = not host.away
    assert {balancer.pick(hosts, key, 0.0) for key in KEYS[:100]} == set(hosts[:2])
