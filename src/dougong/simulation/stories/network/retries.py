"""How many calls of one client are being made again at this moment, counted where they go out."""

from __future__ import annotations

from dougong.mesh import RetryBudgetPolicy
from dougong.rpc import Lost
from dougong.simulation.stories.network.judging import Heard, Judge

__all__ = ["Retries"]


class Retries:
    """Unary calls of one client. Batches that are made again share its budget, and are not counted: what is counted
    stays below the bound all the same."""

    def __init__(self, judge: Judge, heard: Heard, policy: RetryBudgetPolicy | None, callers: int) -> None:
        self._judge = judge
        self._heard = heard
        self._least = 0 if policy is None else policy.min_concurrency
        # What was under way when a retry was decided is not known here; more than one call of each caller it was not.
        self._allowed = None if policy is None else max(self._least, int(policy.percent / 100 * callers))
        self._again: set[int] = set()
        self._failed: dict[int, bool] = {}
        """Calls that were sent already: whether the next time is on the budget."""

    def sent(self, number: int) -> None:
        """A call goes out, for the first time or again."""
        if not self._failed.get(number):
            return
        self._again.add(number)
        self._judge.seen["retries"] += 1
        if self._allowed is not None and len(self._again) > self._allowed:
            self._judge.wrong(self._heard.who, f"{len(self._again)} calls are made again at once, {self._allowed} may")

    def ended(self, number: int, lost: Lost | None) -> None:
        """It came back. Being sent away by a leaving instance is no failure, and what follows no retry."""
        self._again.discard(number)
        self._failed[number] = lost is None or lost.error.code != "draining"
