"""Deadlines in buckets: never early, little late, and forgotten when removed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.jobs.worker.deadlines import FINEST_S, PARTS, Deadlines

WAITS = st.floats(0, 100_000, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 20), WAITS), max_size=60), st.floats(0, 1e6), st.data())
def test_never_early_and_late_by_one_bucket_at_most(
    added: list[tuple[int, float]], now: float, data: st.DataObject
) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, tuple[float, float]] = {}
    for key, wait_s in added:
        deadlines.add(key, now + wait_s, now)
        model[key] = (now + wait_s, max(FINEST_S, wait_s / PARTS))
    for key in data.draw(st.sets(st.integers(0, 20))):
        deadlines.remove(key)
        model.pop(key, None)
    assert len(deadlines) == len(model)
    for step_s in data.draw(st.lists(WAITS, max_size=10)):
        now += step_s
        due = deadlines.due(now)
        assert [model[key][0] for key in due] == sorted(model[key][0] for key in due)
        for key in due:
            assert model.pop(key)[0] <= now
        assert all(now < at + width + 1e-6 for at, width in model.values())


def test_what_is_removed_leaves_nothing_behind_but_its_bucket() -> None:
    """A million jobs with five minutes each that took no time: a plain heap would keep a million entries."""
    deadlines: Deadlines[int] = Deadlines()
    for n in range(20_000):
        now = n / 1000
        deadlines.add(n, now + 300, now)
        deadlines.remove(n)
    assert len(deadlines) == 0
    assert len(deadlines._heap) < 30
