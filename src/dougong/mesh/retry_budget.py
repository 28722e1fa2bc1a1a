"""How many retries may be under way: a fixed number, or a share of what is under way.

Retries are extra load at the worst moment. A budget keeps them a fraction of the work (20 %), so that a dead callee is
not met by a multiple of its traffic; a few (3) are always allowed, or a quiet client could not retry at all. The rules
are Envoy's.
"""

from __future__ import annotations

from dougong.mesh.policy import NO_LIMIT, RetryBudgetPolicy

__all__ = ["RetryBudget"]


class RetryBudget:
    """Of one cluster. A retry counts from the moment it is decided, back-off included, until its answer is here."""

    __slots__ = ("_least", "_max_retries", "_share", "under_way")

    def __init__(self, policy: RetryBudgetPolicy | None, max_retries: int = NO_LIMIT) -> None:
        self._share = None if policy is None else policy.percent / 100.0
        self._least = 0 if policy is None else policy.min_concurrency
        self._max_retries = max_retries
        self.under_way = 0

    def allowed(self, active: int) -> int:
        """How many at once, with `active` calls under way or waiting, retries among them."""
        return self._max_retries if self._share is None else max(int(self._share * active), self._least)

    def begin(self, active: int) -> bool:
        """Whether one more may be made; if so it counts until `ended`."""
        if self.under_way >= self.allowed(active):
            return False
        self.under_way += 1
        return True

    def ended(self) -> None:
        assert self.under_way > 0, "a retry ended that never began"
        self.under_way -= 1
