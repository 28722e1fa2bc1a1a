"""The timing wheel against a list of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.wheel import Wheel


class Item:
    def __init__(self, deadline: int = -1) -> None:
        self.deadline = deadline
        self.looked_at = -1


def test_what_is_due_comes_out_once() -> None:
    wheel, items = Wheel[Item](slots=8), [Item(deadline) for deadline in (1, 3, 3, 9, 100)]
    for item in items:
        wheel.put(item)
    assert wheel.size == 5
    assert list(wheel.advance(2)) == items[:1]
    assert list(wheel.advance(3)) == items[1:3]
    assert list(wheel.advance(50)) == items[3:4]
    assert list(wheel.advance(99)) == []
    assert list(wheel.advance(100)) == items[4:]
    assert wheel.size == 0


def test_later_costs_nothing_and_never_is_never() -> None:
    wheel, item, never = Wheel[Item](slots=8), Item(3), Item()
    wheel.put(item)
    wheel.put(never)
    item.deadline = 5
    assert list(wheel.advance(4)) == []
    assert list(wheel.advance(5)) == [item]
    item.deadline = 9
    wheel.put(item)
    item.deadline = -1
    assert list(wheel.advance(30)) == []
    assert wheel.size == 0


def test_earlier_needs_putting() -> None:
    wheel, item = Wheel[Item](slots=8), Item(7)
    wheel.put(item)
    item.deadline = 2
    wheel.put(item)
    assert wheel.size == 1
    assert list(wheel.advance(2)) == [item]


def test_what_came_out_may_be_put_again_while_the_wheel_turns() -> None:
    wheel, item, turns = Wheel[Item](slots=4), Item(1), 0
    wheel.put(item)
    for due in wheel.advance(3):
        turns += 1
        due.deadline = wheel.now + 1
        wheel.put(due)
    assert turns == 3
    assert item.looked_at == 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4), st.integers(-1, 40)),
        st.tuples(st.just("later"), st.integers(0, 4), st.integers(0, 40)),
        st.tuples(st.just("remove"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("advance"), st.integers(0, 30), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(2, 9))
def test_as_a_list_of_deadlines_would_do(steps: list[tuple[str, int, int]], slots: int) -> None:
    wheel, items, now = Wheel[Item](slots=slots), [Item() for _ in range(5)], 0
    standing: dict[Item, None] = {}
    for kind, which, ticks in steps:
        if kind == "advance":
            now += which
            due = list(wheel.advance(now))
            expected = {item for item in standing if 0 <= item.deadline <= now}
            assert len(due) == len(set(due))
            assert set(due) == expected
            for item in due:
                del standing[item]
            continue
        item = items[which]
        if kind == "put":
            item.deadline = now + ticks if ticks >= 0 else -1
            wheel.put(item)
            standing.pop(item, None)
            if ticks >= 0:
                standing[item] = None
        elif kind == "later" and item in standing:
            item.deadline = max(item.deadline, now + ticks)
        elif kind == "remove":
            wheel.remove(item)
            standing.pop(item, None)
        assert wheel.size == len(standing)
