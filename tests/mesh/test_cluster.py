"""One destination: hosts that come, fail and leave, limits, panic, and what is counted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dougong.errors import Overloaded, Unavailable
from dougong.mesh import CONNECT_FAILED, OK, Cluster, EjectionEvent, Host, of_grpc, of_http
from dougong.mesh.policy import ConnectionLimits, Mode, OutlierPolicy, Policy, RetryBudgetPolicy
from dougong.registry import Instance

NAME = "outbound|8080||go-service.default.svc.cluster.local"


def instances(*numbers: int, **more: object) -> tuple[Instance, ...]:
    return tuple(msgspec.convert({"service": "go", "address": f"10.0.0.{n}:80", **more}, Instance) for n in numbers)


def cluster(count: int, mode: Mode = Mode.PARITY, **outlier: float) -> Cluster:
    policy = Policy(outlier=msgspec.convert({"max_ejection_percent": 100, **outlier}, OutlierPolicy))
    made = Cluster(NAME, policy, 0.0, mode=mode)
    made.update(instances(*range(count)), 0.0)
    return made


def fail(made: Cluster, host: Host, times: int = 5) -> None:
    for _ in range(times):
        made.begin(host)
        made.ended(host, of_http(500), 1.0)


def test_an_update_keeps_what_is_known() -> None:
    made = cluster(3)
    before = made.hosts
    fail(made, before[1])
    assert made.update(instances(2, 5, 1, 0), 7.0)
    assert made.hosts[:3] == before
    assert made.hosts[1].ejected
    assert (made.hosts[3].address, made.hosts[3].joined_at) == ("10.0.0.5:80", 7.0)
    assert made.update(instances(0, 2, 5), 8.0)
    assert made.hosts == (before[0], before[2], made.hosts[2])
    assert made.outlier_counters.ejections_active == 0


def test_no_news_changes_nothing() -> None:
    made = cluster(2)
    hosts, listed = made.hosts, instances(1, 0)
    assert not made.update(listed, 1.0)
    assert not made.update(listed, 2.0)
    assert made.hosts is hosts


def test_a_host_is_described_anew_in_place() -> None:
    made = cluster(1)
    (host,) = made.hosts
    assert made.update(instances(0, zone="eu/b/1", weight=7, version="v2", metadata={"a": "b"}), 1.0)
    assert made.hosts == (host,)
    assert (host.weight, host.locality, host.labels) == (7, "eu/b/1", {"a": "b", "version": "v2"})


def test_the_ejected_are_not_picked_until_they_are_back() -> None:
    made = cluster(2, interval_s=10.0, base_ejection_s=5.0)
    bad, good = made.hosts
    fail(made, bad)
    assert {made.pick(2.0) for _ in range(50)} == {good}
    assert {made.pick(10.0) for _ in range(50)} == {bad, good}
    assert made.due == 20.0


def test_with_all_out_nobody_is_called() -> None:
    made = cluster(2)
    for host in made.hosts:
        fail(made, host)
    with pytest.raises(Unavailable) as raised:
        made.pick(2.0)
    assert raised.value.code == "no_healthy_host"
    assert made.counters.upstream_cx_none_healthy == 1


def test_no_hosts() -> None:
    with pytest.raises(Unavailable, match="has no hosts"):
        Cluster(NAME, Policy(), 0.0).pick(0.0)


@pytest.mark.parametrize(
    ("total", "failing", "threshold", "panics"),
    [(2, 2, 1, True), (2, 2, 0, False), (2, 1, 50, False), (2, 1, 51, True), (4, 1, 100, False), (10, 3, 80, True)],
)
def test_panic_uses_all(total: int, failing: int, threshold: int, panics: bool) -> None:
    made = cluster(total, min_health_percent=threshold)
    for host in made.hosts[:failing]:
        fail(made, host)
    assert made.panic is panics
    if failing < total or panics:
        picked = {made.pick(2.0) for _ in range(200)}
        assert picked == set(made.hosts if panics else made.hosts[failing:])
    assert made.counters.lb_healthy_panic == (200 if panics else 0)


def test_more_calls_than_may_be_under_way() -> None:
    made = Cluster(NAME, Policy(limits=ConnectionLimits(max_requests=2)), 0.0)
    made.update(instances(1), 0.0)
    (host,) = made.hosts
    made.begin(host)
    made.begin(host)
    with pytest.raises(Overloaded) as raised:
        made.begin(host)
    assert raised.value.code == "max_requests"
    assert host.in_flight == 2
    made.ended(host, OK, 1.0)
    made.begin(host)
    assert made.statistics()[f"cluster.{NAME}.circuit_breakers.default.rq_open"] == 1


def test_enhanced_mode_looks_into_trailers_and_batches() -> None:
    for mode, out in ((Mode.PARITY, False), (Mode.ENHANCED, True)):
        trailers, batches = cluster(2, mode), cluster(2, mode)
        for _ in range(5):
            trailers.begin(trailers.hosts[0])
            trailers.ended(trailers.hosts[0], of_grpc(14, mode), 1.0)
            batches.item(batches.hosts[0], of_http(500), 1.0)
        assert trailers.hosts[0].ejected is out
        assert batches.hosts[0].ejected is out


def test_in_split_mode_a_connection_is_proof() -> None:
    made = cluster(2, split_local_origin=True, consecutive_local_origin=2)
    host = made.hosts[0]
    for _ in range(5):
        made.report(host, CONNECT_FAILED, 1.0)
        made.begin(host)
        made.sent(host)
        made.ended(host, OK, 1.0)
    assert not host.ejected
    made.report(host, CONNECT_FAILED, 1.0)
    made.report(host, CONNECT_FAILED, 1.0)
    assert host.ejected


def test_statistics_have_envoys_names() -> None:
    made = cluster(2, max_ejection_percent=50)
    for host in made.hosts:
        fail(made, host)
    values = made.statistics()
    assert values[f"cluster.{NAME}.outlier_detection.ejections_active"] == 1
    assert values[f"cluster.{NAME}.outlier_detection.ejections_overflow"] == 1
    assert values[f"cluster.{NAME}.outlier_detection.ejections_detected_consecutive_5xx"] == 2
    assert values[f"cluster.{NAME}.upstream_rq_pending_overflow"] == 0
    assert values[f"cluster.{NAME}.membership_healthy"] == 1
    assert f"cluster.{NAME}.circuit_breakers.default.rq_pending_open" in values
    without = Cluster(NAME, Policy(), 0.0).statistics()
    assert not any("outlier_detection" in name for name in without)


def test_each_ejection_is_a_line() -> None:
    lines: list[str] = []

    def write(event: EjectionEvent) -> None:
        lines.append(event.json())

    made = Cluster("c", Policy(outlier=OutlierPolicy(max_ejection_percent=100, base_ejection_s=1.0)), 0.0, sink=write)
    made.update(instances(1, 2), 0.0)
    fail(made, made.hosts[0])
    made.tick(10.0)
    assert [msgspec.json.decode(line) for line in lines] == [
        {
            "time": 1.0,
            "cluster": "c",
            "upstream": "10.0.0.1:80",
            "action": "EJECT",
            "num_ejections": 1,
            "type": "CONSECUTIVE_5XX",
            "enforced": True,
        },
        {"time": 10.0, "cluster": "c", "upstream": "10.0.0.1:80", "action": "UNEJECT", "num_ejections": 1},
    ]
    assert len(made.log.events) == 2


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=8))
def test_updates_are_stable(listings: list[list[int]]) -> None:
    """Those that stay keep their order and identity, whatever the order of the listing."""
    made = cluster(0)
    for now, numbers in enumerate(listings):
        before = made.hosts
        made.update(instances(*numbers), float(now))
        assert {host.address for host in made.hosts} == {f"10.0.0.{n}:80" for n in numbers}
        staying = [host for host in before if host in made.hosts]
        assert list(made.hosts[: len(staying)]) == staying


class Anything(RuleBasedStateMachine):
    """Calls, updates and time in any order: books balance, and only who may be is picked."""

    @initialize(percent=st.sampled_from([0, 34, 50, 100]), threshold=st.sampled_from([0, 30, 80]))
    def begin(self, percent: int, threshold: int) -> None:
        policy = Policy(
            limits=ConnectionLimits(max_requests=4),
            outlier=OutlierPolicy(
                consecutive_5xx=2,
                interval_s=1.0,
                base_ejection_s=1.0,
                max_ejection_percent=percent,
                min_health_percent=threshold,
            ),
            retry_budget=RetryBudgetPolicy(),
        )
        self.cluster = Cluster("c", policy, 0.0)
        self.cluster.update(instances(1, 2, 3), 0.0)
        self.under_way: list[Host] = []
        self.now = 0.0

    @rule()
    def a_call_begins(self) -> None:
        try:
            host = self.cluster.pick(self.now)
        except Unavailable:
            assert not self.cluster.panic
            assert all(host.ejected for host in self.cluster.hosts)
            return
        assert host in self.cluster.hosts
        assert not host.ejected or self.cluster.panic
        try:
            self.cluster.begin(host)
        except Overloaded:
            assert len(self.under_way) == 4
        else:
            self.under_way.append(host)

    @precondition(lambda self: bool(self.under_way))
    @rule(status=st.sampled_from([200, 500, 503]), which=st.integers(0, 3))
    def a_call_ends(self, status: int, which: int) -> None:
        host = self.under_way.pop(which % len(self.under_way))
        self.cluster.ended(host, of_http(status), self.now)

    @rule(seconds=st.sampled_from([0.2, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(numbers=st.lists(st.integers(1, 5), unique=True))
    def hosts_change(self, numbers: list[int]) -> None:
        self.cluster.update(instances(*numbers), self.now)

    @invariant()
    def books_balance(self) -> None:
        assert self.cluster.limits.requests == len(self.under_way) <= 4
        for host in self.cluster.hosts:
            assert host.in_flight == sum(host is other for other in self.under_way)
        assert self.cluster.outlier_counters.ejections_active == sum(host.ejected for host in self.cluster.hosts)


TestAnything = Anything.TestCase
