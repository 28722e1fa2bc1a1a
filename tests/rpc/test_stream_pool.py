"""What the stream pool decides, in every order hypothesis can think of, and case by case."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dougong.errors import Invalid, Overloaded
from dougong.mesh import ConnectionLimits, Limits
from dougong.rpc import PoolSettings
from dougong.rpc._creation import CreationGate
from dougong.rpc._pool_parts import Check, Held, Link, LinkState, Open, Refuse, Used, Wait
from dougong.rpc.stream_pool import StreamPool

Failed = pytest.fail.Exception

SMALL = PoolSettings(
    connections=2,
    streams_per_connection=3,
    frames_per_stream=2,
    creations_per_s=2.0,
    creations_burst=3,
    error_rate=0.3,
    error_count_min=4,
    open_s=1.0,
    max_age_s=20.0,
    max_requests=12,
    idle_s=5.0,
    idle_streams=2,
    suspect_after=2,
)


class PoolMachine(RuleBasedStateMachine):
    """A model beside the pool: every lease, and what a server would count on each connection."""

    core = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limits = Limits(ConnectionLimits())
        self.pool = StreamPool(self.core, self.now, Random(1), self.limits)
        self.checking: list[Link] = []
        self.opening: list[Held] = []
        self.calls: list[Link] = []
        self.batches: list[Held] = []
        self.streams: dict[Held, None] = {}
        self.links: set[Link] = set()
        self.made = 0
        self.carried: dict[Link, int] = {}

    def _carried(self, link: Link) -> None:
        self.carried[link] = self.carried.get(link, 0) + 1

    def _step(self, step: object) -> None:
        self.limits.waited()  # and gives up
        if isinstance(step, Check):
            assert not self.checking, "one connection at a time is made"
            self.made += 1
            self.checking.append(step.link)
            self.links.add(step.link)
        elif isinstance(step, Wait):
            assert step.until is None or step.until > self.now
            if step.until is None:
                assert self.checking or self.opening or self.calls or self.batches, "somebody will end this wait"

    @rule()
    def call(self) -> None:
        found = self.pool.lease_link(self.now)
        if isinstance(found, Link):
            assert found.state in (LinkState.READY, LinkState.DRAINING), "draining: this was its last"
            self._carried(found)
            self.calls.append(found)
        else:
            self._step(found)

    @rule(key=st.sampled_from("ab"))
    def batch(self, key: str) -> None:
        found = self.pool.lease_stream(key, self.now)
        if isinstance(found, Held):
            assert found in self.streams
            assert found.key == key
            assert not found.ended
            self._carried(found.link)
            self.batches.append(found)
        elif isinstance(found, Open):
            assert not [held for held in self.opening if held.key == key], "one stream of a kind at a time"
            self.made += 1
            self._carried(found.held.link)
            self.opening.append(found.held)
        else:
            self._step(found)

    @precondition(lambda self: self.checking)
    @rule(failure=st.sampled_from(["", "", "broken", "unhealthy"]))
    def check_ends(self, failure: str) -> None:
        self.pool.checked(self.checking.pop(), self.now, failure)

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), used=st.sampled_from([None, None, Used.LOST, Used.LEFT]))
    def opening_ends(self, data: st.DataObject, used: Used | None) -> None:
        held = data.draw(st.sampled_from(self.opening))
        self.opening.remove(held)
        if used is None:
            self.pool.opened(held, self.now)
            self.streams[held] = None
            self.batches.append(held)
        else:
            self.pool.stream_ended(held, self.now, used)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), used=st.sampled_from(Used))
    def call_ends(self, data: st.DataObject, used: Used) -> None:
        link = data.draw(st.sampled_from(self.calls))
        self.calls.remove(link)
        self.pool.release_link(link, self.now, used)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), used=st.sampled_from(Used))
    def batch_ends(self, data: st.DataObject, used: Used) -> None:
        held = data.draw(st.sampled_from(self.batches))
        self.batches.remove(held)
        self.pool.release_stream(held, self.now, used)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), used=st.sampled_from([Used.LOST, Used.SENT_AWAY, Used.ANSWERED]))
    def stream_breaks(self, data: st.DataObject, used: Used) -> None:
        held = data.draw(st.sampled_from(list(self.streams)))
        del self.streams[held]
        self.pool.stream_ended(held, self.now, used)

    @rule(seconds=st.floats(0.01, 8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        at = self.pool.tick(self.now)
        assert at is None or at > self.now, "no spinning"

    @invariant()
    def closes_only_what_nobody_uses(self) -> None:
        while self.pool.closing:
            due = self.pool.closing.popleft()
            if isinstance(due, Held):
                assert due not in self.batches
                del self.streams[due]
            else:
                assert due.state is LinkState.CLOSED
                assert due not in self.calls
                assert not [held for held in self.streams if held.link is due and not held.ended]
                self.links.remove(due)

    @invariant()
    def keeps_its_bounds(self) -> None:
        live = [link for link in self.links if link.state not in (LinkState.DRAINING, LinkState.CLOSED)]
        assert len(live) <= SMALL.connections
        for link in self.links:
            assert 0 <= link.busy <= SMALL.streams_per_connection, "more would hang silently at the server"
        busy = dict.fromkeys(self.links, 0)
        for link in self.calls:
            busy[link] += 1
        ended = {held for held in self.batches if held.ended}
        for held in {*self.streams, *self.opening, *ended}:
            busy[held.link] += 1
        assert busy == {link: link.busy for link in self.links}
        for held in self.streams:
            assert held.frames == self.batches.count(held) <= SMALL.frames_per_stream
        assert self.made <= SMALL.creations_burst + SMALL.creations_per_s * self.now + 1e-6
        assert len([held for held in self.streams if not held.frames]) <= SMALL.idle_streams
        assert self.limits.connections == len(self.links)
        assert self.limits.requests == len(self.calls) + len(self.batches) + len(self.opening)
        assert self.limits.pending == 0
        stats = self.pool.stats
        assert stats.connections == len(self.links)
        assert stats.streams == len({*self.streams, *self.opening, *ended})

    @invariant()
    def carries_no_more_than_it_may(self) -> None:
        for link, count in self.carried.items():
            draining = sum(other.state is LinkState.DRAINING for other in self.links)
            assert count <= SMALL.max_requests or draining >= SMALL.connections or link.left <= 0


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestPool = PoolMachine.TestCase


@pytest.mark.parametrize(
    "without",
    [
        {"streams_per_connection": 100},
        {"creations_burst": 100},
        {"connections": 10},
        {"frames_per_stream": 100},
    ],
)
def test_without_a_bound_the_machine_sees_it_passed(without: dict[str, int]) -> None:
    class Unbounded(PoolMachine):
        core = msgspec.structs.replace(SMALL, **without)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Unbounded,
            settings=settings(
                max_examples=500, stateful_step_count=60, deadline=None, database=None, phases=[Phase.generate]
            ),
        )


def pool(limits: Limits | None = None, **changes: object) -> StreamPool:
    return StreamPool(PoolSettings(**changes), 0.0, Random(1), limits)  # type: ignore[arg-type]


def under(**limits: int) -> Limits:
    return Limits(ConnectionLimits(**limits))


def connected(core: StreamPool, now: float = 0.0) -> Link:
    step = core.lease_link(now)
    assert isinstance(step, Check)
    core.checked(step.link, now)
    found = core.lease_link(now)
    assert found is step.link
    return step.link


def stream(core: StreamPool, key: str, now: float) -> Held:
    step = core.lease_stream(key, now)
    assert isinstance(step, Open)
    core.opened(step.held, now)
    return step.held


def test_a_stream_is_used_again_and_a_second_opened_only_when_it_is_full() -> None:
    core = pool(frames_per_stream=2)
    core.release_link(connected(core), 0, Used.ANSWERED)
    first = stream(core, "a", 0)
    assert core.lease_stream("a", 0) is first
    second = stream(core, "a", 0)
    assert second is not first
    core.release_stream(first, 0, Used.ANSWERED)
    assert core.lease_stream("a", 0) is first
    assert core.stats.streams_created == 2


def test_the_least_recently_used_stream_makes_room() -> None:
    core = pool(connections=1, streams_per_connection=2)
    core.release_link(connected(core), 0, Used.ANSWERED)
    old, young = stream(core, "a", 1), stream(core, "b", 1)
    core.release_stream(young, 2, Used.ANSWERED)
    core.release_stream(old, 3, Used.ANSWERED)
    stream(core, "c", 4)
    assert list(core.closing) == [young]


def test_an_idle_stream_makes_room_for_a_call_where_no_connection_may_be_made() -> None:
    core = pool(connections=2, streams_per_connection=1)
    core.release_link(connected(core), 0, Used.ANSWERED)
    held = stream(core, "a", 0)
    core.release_stream(held, 0, Used.ANSWERED)
    step = core.lease_link(0)
    assert isinstance(step, Check), "as long as one may be made, streams are left alone"
    core.checked(step.link, 0)
    assert core.lease_link(0) is step.link
    assert core.lease_link(0) is held.link
    assert list(core.closing) == [held]
    assert core.lease_link(0) == Wait("full"), "batches under way are not broken off"


def test_calls_beyond_the_bound_wait_instead_of_hanging_at_the_server() -> None:
    core = pool(connections=2, streams_per_connection=2)
    one = connected(core)
    core.lease_link(0)
    step = core.lease_link(0)
    assert isinstance(step, Check)
    assert core.lease_link(0) == Wait("connecting"), "one connection is made for all who wait"
    core.checked(step.link, 0)
    assert core.lease_link(0) is step.link
    assert core.lease_link(0) is step.link
    assert core.lease_link(0) == Wait("full")
    core.release_link(one, 0, Used.ANSWERED)
    assert core.lease_link(0) is one


def test_ages_and_counts_end_a_connection_after_what_it_carries() -> None:
    core = pool(max_age_s=10.0, jitter=0.0)
    link = connected(core)
    assert core.tick(9.9) == pytest.approx(10.0)
    assert isinstance(core.lease_link(10.1), Check), "nothing new on the old one"
    assert not core.closing
    core.release_link(link, 11, Used.ANSWERED)
    assert list(core.closing) == [link]
    assert core.stats.retired == {"age": 1}
    core = pool(max_requests=2, jitter=0.0)
    link = connected(core)
    assert core.lease_link(0) is link
    assert isinstance(core.lease_link(0), Check)
    assert core.stats.retired == {"requests": 1}


def test_a_policy_counts_the_calls_on_a_connection_to_the_letter() -> None:
    """However many drain: Envoy puts no drain off, and ends them without jitter."""
    limits = under(max_requests_per_connection=3)
    core = pool(limits, connections=1)
    for _ in range(4):
        link = connected(core)
        assert core.lease_link(0) is link
        assert core.lease_link(0) is link
    assert core.stats.retired == {"requests": 4}
    assert (limits.connections, limits.counters.upstream_cx_max_requests) == (4, 4)


def second_host_is_served() -> None:
    limits = under(max_connections=1)
    first, second = pool(limits), pool(limits)
    connected(first)
    connected(second)
    assert limits.counters.upstream_cx_overflow == 1
    core = pool(limits, streams_per_connection=1)
    connected(core)
    assert core.lease_link(0) == Wait("full"), "it has one, and all together may have no more"


def queue_is_bounded() -> None:
    limits = under(max_pending=2, max_connections=1)
    first, second = (pool(limits, streams_per_connection=1) for _ in range(2))
    for core in (first, second):
        step = core.lease_link(0)
        assert isinstance(step, Check)
    with pytest.raises(Overloaded) as caught:
        first.lease_stream("a", 0)
    assert caught.value.code == "max_pending"


@pytest.mark.parametrize(
    ("story", "name", "instead"),
    [
        (second_host_is_served, "may_open", lambda limits, has_one: limits.room),
        (second_host_is_served, "may_open", lambda limits, has_one: True),
        (queue_is_bounded, "wait", lambda limits: None),
    ],
)
def test_what_all_hosts_may_have_together(
    story: Callable[[], None], name: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    story()
    monkeypatch.setattr(Limits, name, instead)
    with pytest.raises((AssertionError, Failed)):
        story()


def test_a_call_that_lasts_keeps_no_others_from_being_made() -> None:
    """Where no connection may take its place, age lets a busy one be; an idle one goes."""
    limits = under(max_connections=1)
    core = pool(limits, max_age_s=10.0, jitter=0.0)
    link = connected(core)
    assert core.lease_link(11) is link
    core.release_link(link, 11, Used.ANSWERED)
    core.release_link(link, 11, Used.ANSWERED)
    assert isinstance(core.lease_link(12.5), Check)
    assert list(core.closing) == [link]


def test_ends_are_spread() -> None:
    core = StreamPool(PoolSettings(connections=50, streams_per_connection=1, creations_burst=99), 0.0, Random(3))
    ends = {connected(core).expires_at for _ in range(50)}
    assert len(ends) == 50
    assert all(1620 <= end <= 1800 for end in ends)


def test_a_lost_call_makes_a_connection_suspect_and_a_few_time_outs_do() -> None:
    core = pool(suspect_after=2)
    link = connected(core)
    for used in (Used.TIMED_OUT, Used.ANSWERED, Used.TIMED_OUT, Used.LEFT):
        core.release_link(link, 0, used)
        assert core.lease_link(0) is link
    core.release_link(link, 0, Used.TIMED_OUT)
    assert core.lease_link(0) == Check(link), "nothing goes out before it is found healthy"
    core.checked(link, 0)
    assert core.lease_link(0) is link
    core.release_link(link, 0, Used.LOST)
    assert core.lease_link(0) == Check(link)
    core.checked(link, 0, "unhealthy")
    assert list(core.closing) == [link]
    assert isinstance(step := core.lease_link(0), Check)
    assert step.link is not link


@pytest.mark.parametrize(("policy", "kind"), [("reuse", Refuse), ("fail", Refuse), ("wait", Wait)])
def test_a_storm_of_failures_stops_creation(policy: str, kind: type) -> None:
    core = pool(error_count_min=4, open_s=1.0, when_open=policy)
    for _ in range(4):
        step = core.lease_link(0)
        assert isinstance(step, Check)
        core.checked(step.link, 0, "broken")
    assert isinstance(core.lease_link(0.5), kind)
    probe = core.lease_link(1.0)
    assert isinstance(probe, Check), "one is let through"
    core.checked(probe.link, 1.0)
    assert core.lease_link(1.0) is probe.link


def test_with_the_breaker_open_what_is_there_is_used() -> None:
    core = pool(error_count_min=3, open_s=1.0, streams_per_connection=1, connections=3)
    one = connected(core)
    for _ in range(2):
        step = core.lease_link(0)
        assert isinstance(step, Check)
        core.checked(step.link, 0, "broken")
    assert isinstance(core.lease_link(0), Wait)
    core.release_link(one, 0, Used.ANSWERED)
    assert core.lease_link(0) is one


def test_without_the_minimum_one_failure_in_a_quiet_hour_would_stop_everything() -> None:
    """The ablation of `error_count_min`."""
    quiet, hasty = (CreationGate(PoolSettings(error_count_min=count), 0.0) for count in (20, 1))
    for gate in (quiet, hasty):
        gate.failed(0.0)
    assert not quiet.open
    assert hasty.open


def test_an_idle_pool_closes_its_streams_and_then_its_connection() -> None:
    core = pool(idle_s=10.0, max_age_s=0.0)
    link = connected(core)
    core.release_link(link, 0, Used.ANSWERED)
    held = stream(core, "a", 0)
    core.release_stream(held, 5, Used.ANSWERED)
    assert core.tick(14.9) == pytest.approx(15.0)
    assert core.tick(15) == pytest.approx(25.0)
    assert list(core.closing) == [held]
    assert core.tick(25) is None
    assert list(core.closing) == [held, link]
    assert core.stats.retired == {"idle": 1}


def test_a_connection_that_is_busy_when_it_is_looked_at_is_closed_once_it_is_idle() -> None:
    core = pool(idle_s=10.0, max_age_s=0.0)
    link = connected(core)
    assert core.tick(9) == pytest.approx(19.0), "busy: look again, nobody else will"
    core.release_link(link, 9.5, Used.ANSWERED)
    assert core.tick(19) == pytest.approx(19.5)
    assert core.tick(19.5) is None
    assert list(core.closing) == [link]


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"creations_per_s": 0.0}, {"jitter": 1.0}, {"error_rate": 0.0}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(Invalid):
        PoolSettings(**wrong)  # type: ignore[arg-type]
