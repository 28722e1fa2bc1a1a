"""How long things are kept, and how patient the engine is."""

from __future__ import annotations

import msgspec

from dougong.errors import Invalid

__all__ = ["SqlQueueSettings"]


class SqlQueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds, except where it says otherwise."""

    keep_s: float = 86_400.0
    """Done and cancelled jobs are kept so long, and their keys with them. Dead ones stay until somebody acts."""
    stalls_max: int = 3
    """A job whose worker died or fell silent so often is dead: it may well be what kills them."""
    poll_s: float = 0.05
    """How often a worker without jobs asks a server for what other processes put; each time longer, up to
    `poll_max_s`."""
    poll_max_s: float = 0.25
    peek_s: float = 0.004
    """The same on SQLite, where a look costs microseconds: about one percent of a core."""
    peek_max_s: float = 0.02
    sweep_every_s: float = 60.0
    """How often the table is looked through for what was kept long enough."""

    def __post_init__(self) -> None:
        if not (
            self.keep_s >= 0
            and self.stalls_max >= 1
            and 0 < self.poll_s <= self.poll_max_s
            and 0 < self.peek_s <= self.peek_max_s
            and self.sweep_every_s >= 0
        ):
            raise Invalid(
                f"{self} cannot be: keep_s and sweep_every_s from 0, stalls_max from 1, 0 < poll_s <= poll_max_s, "
                f"0 < peek_s <= peek_max_s",
                code="bad_settings",
            )
