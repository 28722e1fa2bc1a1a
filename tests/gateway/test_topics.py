"""Topics and members against two dictionaries of sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.topics import Topics


class Someone:
    topics: str | set[str] | None = None


STEPS = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "drop"]), st.integers(0, 3), st.sampled_from("abc")),
    max_size=40,
)


@given(STEPS, st.sampled_from([1, 2, 1000]))
def test_as_sets_would_do(steps: list[tuple[str, int, str]], part: int) -> None:
    topics, everybody = Topics[Someone](part), [Someone() for _ in range(4)]
    model: dict[str, set[Someone]] = {topic: set() for topic in "abc"}
    for what, number, topic in steps:
        one = everybody[number]
        if what == "subscribe":
            assert topics.subscribe(one, topic) is (one not in model[topic])
            model[topic].add(one)
        elif what == "unsubscribe":
            assert topics.unsubscribe(one, topic) is (one in model[topic])
            model[topic].discard(one)
        else:
            topics.drop(one)
            for members in model.values():
                members.discard(one)
        for name, members in model.items():
            found = topics.members(name)
            assert set(found) == members
            assert len(found) == topics.count(name) == len(members)
        assert set(topics) == {name for name, members in model.items() if members}
        assert topics.subscriptions == sum(len(members) for members in model.values())
    for one in everybody:  # small forms are used again after large ones
        mine = {name for name, members in model.items() if one in members}
        assert one.topics == (None if not mine else next(iter(mine)) if len(mine) == 1 else mine)
