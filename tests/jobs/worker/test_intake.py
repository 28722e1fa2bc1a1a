"""What a worker asks for and starts: bounds, priorities and shares, under every order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.jobs import Claimed
from dougong.jobs.worker.intake import Intake


def claimed(id_: int, queue: str = "a", priority: int = 5) -> Claimed:
    return Claimed(id=id_, queue=queue, job="j", payload=b"{}", attempt=1, enqueued_us=0, due_us=0, priority=priority)


class TestStarting:
    def test_by_priority_then_by_coming_whenever_they_came(self) -> None:
        intake = Intake({"a": 9}, 100)
        intake.add([claimed(1, priority=5), claimed(2, priority=5), claimed(3, priority=9)])
        intake.add([claimed(4, priority=0), claimed(5, priority=5)])
        started = [intake.next() for _ in range(5)]
        assert [job.id for job in started if job] == [4, 1, 2, 5, 3]

    def test_shrinking_interrupts_nothing_and_growing_starts_more(self) -> None:
        intake = Intake({"a": 3}, 100)
        intake.add(claimed(n) for n in range(10))
        while intake.next() is not None:
            pass
        assert intake.running("a") == 3
        intake.configure("a", 1)
        intake.ended("a")
        intake.ended("a")
        assert intake.running("a") == 1
        assert intake.next() is None
        intake.ended("a")
        assert intake.next() is not None
        intake.configure("a", 5)
        assert [intake.next() is not None for _ in range(5)] == [True] * 4 + [False]

    def test_a_full_queue_does_not_starve_another(self) -> None:
        intake = Intake({"a": 100, "b": 100}, 1000)
        intake.add(claimed(n, "a", 0) for n in range(50))
        intake.add(claimed(100 + n, "b", 9) for n in range(3))
        first = [job.queue for _ in range(6) if (job := intake.next()) is not None]
        assert sorted(first) == ["a", "a", "a", "b", "b", "b"]

    def test_a_paused_queue_gives_back_what_waits(self) -> None:
        intake = Intake({"a": 1}, 100)
        intake.add([claimed(1), claimed(2, priority=1)])
        assert [job.id for job in intake.configure("a", 1, paused=True)] == [2, 1]
        assert intake.wants() == []
        assert intake.next() is None


class TestAsking:
    def test_long_jobs_are_not_hoarded(self) -> None:
        """What waits here no other worker can take, and nothing more urgent can overtake."""
        intake = Intake({"a": 10}, 1000)
        assert [want.count for want in intake.wants()] == [10]
        intake.add(claimed(n) for n in range(10))
        while intake.next() is not None:
            pass
        assert intake.wants() == []
        for turn in range(10):
            intake.ended("a")
            intake.asked(turn * 60.0)
            assert [want.count for want in intake.wants()] == [1]
            intake.answered(turn * 60.0 + 0.01)
            intake.add([claimed(100 + turn)])
            assert intake.next() is not None

    def test_short_jobs_grow_to_whole_batches(self) -> None:
        intake = Intake({"a": 10}, 1000)
        asked: list[int] = []
        for turn in range(24):
            intake.asked(turn * 0.01)
            wants = intake.wants()
            while intake.next() is not None:
                intake.ended("a")
                intake.written("a")
            intake.answered(turn * 0.01 + 0.009)
            count = wants[0].count if wants else 0
            asked.append(count)
            intake.add(claimed(n) for n in range(count))
        assert max(asked) > 900

    @given(room=st.integers(1, 200), limits=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 300), min_size=1))
    def test_the_room_is_shared_and_never_exceeded(self, room: int, limits: dict[str, int]) -> None:
        intake = Intake(limits, room)
        wants = {want.queue: want.count for want in intake.wants()}
        assert sum(wants.values()) <= room
        assert sum(wants.values()) == min(room, sum(limits.values()))
        if room >= len(limits):
            assert wants.keys() == limits.keys(), "each queue gets some"


@given(st.data())
def test_bounds_hold_and_nothing_is_lost_in_any_order(data: st.DataObject) -> None:
    bound = data.draw(st.integers(1, 12))
    limits = {"a": data.draw(st.integers(1, 4)), "b": data.draw(st.integers(1, 4))}
    intake = Intake(limits, bound)
    waiting: set[int] = set()
    running: list[Claimed] = []
    unwritten: list[str] = []
    last = 0
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(("take", "start", "end", "write", "resize", "cancel"))):
            case "take":
                for want in intake.wants():
                    came = [
                        claimed(last + n + 1, want.queue, data.draw(st.integers(0, 9)))
                        for n in range(data.draw(st.integers(0, want.count)))
                    ]
                    last += len(came)
                    waiting |= {job.id for job in came}
                    intake.add(came)
            case "start":
                job = intake.next()
                if job is not None:
                    waiting.remove(job.id)
                    running.append(job)
                    assert intake.running(job.queue) <= intake.limit(job.queue)
                else:
                    assert all(
                        not intake.waiting(queue) or intake.running(queue) >= intake.limit(queue) for queue in limits
                    )
            case "end" if running:
                job = running.pop(data.draw(st.integers(0, len(running) - 1)))
                intake.ended(job.queue)
                unwritten.append(job.queue)
            case "write":
                for queue in unwritten:
                    intake.written(queue)
                unwritten.clear()
            case "resize":
                intake.configure(data.draw(st.sampled_from("ab")), data.draw(st.integers(1, 6)))
            case "cancel" if waiting:
                one = data.draw(st.sampled_from(sorted(waiting)))
                (out,) = intake.take_out({one})
                assert out.id == one
                waiting.remove(one)
                unwritten.append(out.queue)
            case _:
                pass
        assert intake.held == len(waiting) + len(running) + len(unwritten) <= bound
        assert {job.id for job in intake.waiting_jobs()} == waiting
    assert {job.id for job in intake.take_all()} == waiting
