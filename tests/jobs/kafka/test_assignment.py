"""Members that come and go, die, and lose what they have: every job is taken once, and all of them are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dougong.jobs.kafka.assignment import Assignment, Held, Part
from dougong.jobs.kafka.offsets import read_map
from dougong.jobs.kafka.records import JOBS_MAX, LANES_MAX, LogJob, id_of, spot_of

PARTS = (Part("default", 0), Part("default", 1), Part("other", 0))
SESSION_S = 45.0
LANES = {part: lane for lane, part in enumerate(PARTS, 1)}


class Group(RuleBasedStateMachine):
    """Two members, a log, a table. `rows` is what the database knows; a job runs when a row is written for it."""

    with_rows = True
    with_map = True

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[Part, list[list[LogJob]]] = {part: [] for part in PARTS}
        self.committed: dict[Part, tuple[int, str]] = dict.fromkeys(PARTS, (0, ""))
        self.owner: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.rows: set[int] = set()
        self.ran: list[int] = []
        self.members = [Assignment(8, SESSION_S), Assignment(8, SESSION_S)]
        for part in PARTS:
            self.gain(0, part)

    def gain(self, member: int, part: Part) -> None:
        low, metadata = self.committed[part]
        self.owner[part] = member
        finished = read_map(metadata, low, len(self.log[part])) if self.with_map else ()
        self.members[member].gain(part, LANES[part], low, finished)
        self.at = {**getattr(self, "at", {}), part: low}

    @rule(part=st.sampled_from(PARTS), priorities=st.lists(st.integers(0, 9), min_size=1, max_size=3))
    def put(self, part: Part, priorities: list[int]) -> None:
        self.log[part].append([LogJob("job", b"{}", 0, priority) for priority in priorities])

    @rule(part=st.sampled_from(PARTS), count=st.integers(1, 4))
    def read(self, part: Part, count: int) -> None:
        for _ in range(count):
            if self.at[part] < len(self.log[part]):
                self.members[self.owner[part]].read(part, self.at[part], self.log[part][self.at[part]])
                self.at[part] += 1

    @rule(member=st.integers(0, 1), queue=st.sampled_from(["default", "other"]), count=st.integers(1, 4))
    def take(self, member: int, queue: str, count: int) -> None:
        taken = self.members[member].take(queue, count)
        assert [held.job.priority for held in taken] == sorted(held.job.priority for held in taken)
        self.write(member, taken)

    @rule(member=st.integers(0, 1), count=st.integers(1, 4), keep=st.integers(0, 4))
    def take_and_give_back(self, member: int, count: int, keep: int) -> None:
        taken = self.members[member].take("default", count)
        self.members[member].give_back(taken[keep:])
        self.write(member, taken[:keep])

    def write(self, member: int, taken: list[Held]) -> None:
        for held in taken:
            if not self.with_rows or held.id not in self.rows:
                self.rows.add(held.id)
                self.ran.append(held.id)
        self.members[member].settle(taken)

    @rule(member=st.integers(0, 1))
    def commit(self, member: int) -> None:
        for part, offset, metadata in self.members[member].commits():
            self.committed[part] = offset, metadata

    @rule(part=st.sampled_from(PARTS), lost=st.booleans())
    def move(self, part: Part, lost: bool) -> None:
        """To the other member; one that lost it could not commit."""
        old = self.owner[part]
        if not lost:
            for _, offset, metadata in self.members[old].commits([part]):
                self.committed[part] = offset, metadata
        self.members[old].lose([part])
        self.gain(1 - old, part)

    @precondition(lambda self: self.ran)
    @rule(member=st.integers(0, 1))
    def die(self, member: int) -> None:
        self.members[member] = Assignment(8, SESSION_S)
        for part, owner in self.owner.items():
            if owner == member:
                self.gain(1 - member, part)

    @invariant()
    def no_job_runs_twice(self) -> None:
        assert len(self.ran) == len(set(self.ran))

    def teardown(self) -> None:
        for part in PARTS:
            self.move(part, lost=True)
            while self.at[part] < len(self.log[part]):
                self.read(part, 1)
        for member in (0, 1):
            for queue in ("default", "other"):
                self.take(member, queue, 10_000)
        there = {
            id_of(LANES[part], offset, number)
            for part, log in self.log.items()
            for offset, jobs in enumerate(log)
            for number in range(len(jobs))
        }
        assert set(self.ran) == there, "a job was lost"
        assert all(not member.held for member in self.members)
        self.no_job_runs_twice()


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=40)


def test_without_rows_a_job_runs_again_after_a_crash() -> None:
    """The ablation: nothing but offsets would speak for what was taken."""

    def run(with_rows: bool) -> list[int]:
        group = Group()
        group.with_rows = with_rows
        group.put(PARTS[0], [5])
        group.read(PARTS[0], 1)
        group.take(0, "default", 1)
        group.die(0)
        group.read(PARTS[0], 1)
        group.take(1, "default", 1)
        return group.ran

    assert len(run(with_rows=True)) == 1
    assert len(run(with_rows=False)) == 2


def test_without_the_map_finished_jobs_run_again_after_a_rebalance() -> None:
    """The ablation: one number of the log says nothing of what was finished out of order. Rows, which would save us
    even then, are taken away from both.
    """

    def run(with_map: bool) -> list[int]:
        group = Group()
        group.with_rows, group.with_map = False, with_map
        for priority in (9, 1, 1):
            group.put(PARTS[0], [priority])
        group.read(PARTS[0], 3)
        group.take(0, "default", 2)  # the first waits on
        group.move(PARTS[0], lost=False)
        group.read(PARTS[0], 3)
        group.take(1, "default", 3)
        return [spot.offset for id_ in group.ran if (spot := spot_of(id_)) is not None]

    assert run(with_map=True) == [1, 2, 0]
    assert run(with_map=False) == [1, 2, 1, 2, 0]


def test_reading_stops_when_enough_is_held_and_goes_on_when_half_of_it_is_gone() -> None:
    part = Part("default", 0)
    assignment = Assignment(4, SESSION_S)
    assignment.gain(part, 1, 0)
    for offset in range(4):
        assert assignment.stopped(running=[part], patient=False) == ([], [])
        assignment.read(part, offset, [LogJob("job", b"{}", 0)])
    assert assignment.stopped(running=[part], patient=True) == ([], [])
    assert assignment.stopped(running=[part], patient=False) == ([part], [])
    assignment.settle(assignment.take("default", 1))
    assert assignment.stopped(running=[], patient=False) == ([], [])
    assignment.settle(assignment.take("default", 1))
    assert assignment.stopped(running=[], patient=False) == ([], [part])


def test_a_record_that_cannot_be_read_holds_up_nothing() -> None:
    part = Part("default", 0)
    assignment = Assignment(4, SESSION_S)
    assignment.gain(part, 1, 0)
    assignment.read(part, 0, [])
    assignment.read(part, 1, [LogJob("job", b"{}", 0, 99)])
    assert [held.place for held in assignment.take("default", 4)] == [(0, 1)]
    assert assignment.commits()[0].offset == 1


def test_a_commit_that_did_not_arrive_is_said_again_and_another_is_not() -> None:
    part = Part("default", 0)
    assignment = Assignment(4, SESSION_S)
    assignment.gain(part, 1, 7)
    (commit,) = assignment.commits()
    assert (commit.offset, assignment.commits(), assignment.low()) == (7, [], {part: 7})
    assignment.not_committed([part])
    assert assignment.low() == {}
    assert assignment.commits() == [commit]


@given(st.integers(0, LANES_MAX - 1), st.integers(0, (1 << 40) - 1), st.integers(0, JOBS_MAX - 1))
def test_an_id_says_where_the_job_is(lane: int, offset: int, number: int) -> None:
    id_ = id_of(lane, offset, number)
    assert spot_of(id_) == (lane, offset, number)
    assert 1 << 61 <= id_ < 1 << 62
    assert spot_of(id_ - (1 << 61)) is None


def test_a_queue_that_nobody_takes_from_does_not_fill_the_place_of_others() -> None:
    paused, lively = Part("paused", 0), Part("lively", 0)
    assignment = Assignment(8, SESSION_S)
    for lane, part in enumerate((paused, lively), 1):
        assignment.gain(part, lane, 0)
    for offset in range(4):
        assignment.read(paused, offset, [LogJob("job", b"{}", 0)])
    assert assignment.missing([paused, lively]) == 4
    assert assignment.stopped(running=[paused, lively], patient=False) == ([paused], [])
    for offset in range(100):
        assert assignment.missing([lively]) == 4
        assignment.read(lively, offset, [LogJob("job", b"{}", 0)])
        assignment.settle(assignment.take("lively", 1))


def test_what_waits_of_a_partition_that_is_lost_is_not_kept() -> None:
    part = Part("paused", 0)
    assignment = Assignment(8, SESSION_S)
    for _ in range(3):
        assignment.gain(part, 1, 0)
        assignment.read(part, 0, [LogJob("job", b"{}", 0), LogJob("job", b"{}", 0, 1)])
    assert sum(map(len, assignment._waiting["paused"])) == 2
