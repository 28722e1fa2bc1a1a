"""Whether a call is sent once more: what is safe, what its route wants, and what the retry budget has room for.

Safe is what surely was not begun, or an idempotent method. Where a route says nothing of retries, what is safe goes on
until the call's time is up (if nothing was begun) or `ATTEMPTS_MAX` times (if something may have been). Where it does,
its conditions and its number hold as well. Either way each retry takes its place in the cluster's budget.
"""

from __future__ import annotations

from random import Random

from dougong.contract import Method
from dougong.errors import Error
from dougong.mesh import Failure, Host, Limits, RetryPolicy
from dougong.rpc._load import DRAINING
from dougong.rpc._transport import Lost

__all__ = ["ATTEMPTS_MAX", "Attempts"]

ATTEMPTS_MAX = 4
"""Of an idempotent call whose outcome is unknown."""


class Attempts:
    """Of one call. `close` when it is over."""

    __slots__ = ("_begun", "_idempotent", "_limits", "_policy", "_random", "_retrying", "made", "tried", "unknown")

    def __init__(self, method: Method, limits: Limits, policy: RetryPolicy | None, random: Random) -> None:
        """`policy` is None where the route leaves it to us."""
        self.made = 1
        self.tried: list[Host] = []
        """To be passed over, where the route wants that."""
        self.unknown: Error | None = None
        """Once something may have been begun, no later error may say that it was not."""
        self._begun = 0
        self._idempotent = method.idempotent
        self._limits = limits
        self._policy = policy
        self._random = random
        self._retrying = False

    def at(self, host: Host) -> None:
        """An attempt is made at `host`."""
        if self._policy is not None and self._policy.other_hosts_first:
            self.tried.append(host)

    def after(self, failure: Error | Lost) -> float | None:
        """Seconds to wait before the call is sent again; None: it is not, and `verdict` is what the caller gets."""
        if isinstance(failure, Lost) and failure.started:
            self._begun += 1
            self.unknown = failure.error
        self._end_retry()
        if not self._may(failure):
            return None
        wait_s = self._policy.wait_s(self.made, self._random) if self._policy is not None else 0.0
        # Whoever says goodbye sends its calls elsewhere: that is no failure, and no load on top.
        if not (isinstance(failure, Lost) and failure.error.code == DRAINING):
            if not self._limits.begin_retry(ended=1):
                return None
            self._retrying = True
        self.made += 1
        return wait_s

    def verdict(self, failure: Error | Lost) -> Error:
        """What the caller is told in the end."""
        return self.unknown or (failure.error if isinstance(failure, Lost) else failure)

    def close(self) -> None:
        self._end_retry()

    def _may(self, failure: Error | Lost) -> bool:
        policy = self._policy
        if not isinstance(failure, Lost):  # the method's own answer
            wanted = policy is not None and self.made <= policy.attempts and self._idempotent
            return wanted and policy is not None and policy.covers(grpc_status=failure.grpc_status)
        if self._begun and (not self._idempotent or self._begun >= ATTEMPTS_MAX):
            return False
        if policy is None or failure.error.code == DRAINING:
            return True
        kind = Failure.RESET if failure.started else Failure.CONNECT
        return self.made <= policy.attempts and policy.covers(failure=kind)

    def _end_retry(self) -> None:
        if self._retrying:
            self._retrying = False
            self._limits.end_retry()
