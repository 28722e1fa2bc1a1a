"""What a real Envoy and our core said to the same story."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = ["Replayed"]


class Replayed(msgspec.Struct):
    """What both said. A line of the log is (action, kind, enforced, port, ejections so far)."""

    envoy: dict[str, int]
    ours: dict[str, int]
    envoy_log: list[str] = []
    our_log: list[str] = []
    envoy_intervals: list[int] = []
    """How many intervals each ejection lasted, in the order in which they ended."""
    our_intervals: list[int] = []
    wrong_picks: list[str] = []
    """Hosts that Envoy picked and we would not have."""
    void: str = ""
    """Why nothing can be said: what happened came too near to something else to tell the order."""

    once_more: Callable[[], Replayed] | None = None
    """What Envoy was seen to do, told to our core again."""

    @property
    def differs(self) -> bool:
        """What really differs does so every time; it may also have been an accident of timing."""
        return (
            bool(self.wrong_picks)
            or self.our_log != self.envoy_log
            or self.our_intervals != self.envoy_intervals
            or any(
                self.envoy.get(name) != value
                for name, value in self.ours.items()
                if "ejections" in name or name in ("lb_healthy_panic", "upstream_cx_none_healthy")
            )
        )
