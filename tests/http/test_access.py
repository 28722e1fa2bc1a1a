"""How many lines a second."""

from __future__ import annotations

from dougong.http.access import LineBudget


def test_so_many_a_second_and_the_rest_is_counted() -> None:
    budget = LineBudget(2)
    assert [budget.take(10.0), budget.take(10.1), budget.take(10.2), budget.take(10.9)] == [0, 0, -1, -1]
    assert [budget.take(11.0), budget.take(11.5), budget.take(11.6)] == [2, 0, -1]
    assert budget.take(50.0) == 1
