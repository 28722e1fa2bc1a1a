"""When a process that ended is started again: at once the first time, then later and later, never faster."""

from __future__ import annotations

import os

__all__ = ["EXIT_HOPELESS", "RestartPolicy"]

EXIT_HOPELESS = os.EX_CONFIG
"""Exit code of a process that was told something wrong: starting it again changes nothing."""


class RestartPolicy:
    """Back-off of one process. `ended(now)` says how long to wait; a process that ran `calm_s` starts afresh."""

    def __init__(self, *, first_s: float = 0.1, factor: float = 2.0, max_s: float = 10.0, calm_s: float = 10.0) -> None:
        self._first_s = first_s
        self._factor = factor
        self._max_s = max_s
        self._calm_s = calm_s
        self._started = 0.0
        self._delay_s = 0.0

    def started(self, now: float) -> None:
        """The process was started at `now` (monotonic seconds)."""
        self._started = now

    def ended(self, now: float) -> float:
        """Seconds to wait before the next start."""
        if now - self._started >= self._calm_s:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(max(self._first_s, delay_s * self._factor), self._max_s)
        return delay_s
