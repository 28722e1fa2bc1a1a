"""The scheduler's pace and patience."""

from __future__ import annotations

import msgspec

from dougong.errors import Invalid

__all__ = ["SchedulerSettings"]


class SchedulerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds. Raises `Invalid` (`bad_settings`)."""

    interval_s: float = 1.0
    """How often it looks. What it knows to be due earlier fires on time."""
    lease_ttl_s: float = 15.0
    """Another scheduler takes over when the one that fires has said nothing for so long. At least three intervals."""
    late_s: float = 60.0
    """A fire that is dealt with later than that is a misfire."""
    rows_at_once: int = 500
    """Schedules fired in one unit."""
    jobs_at_once: int = 500
    """Jobs put in one unit; the shards of one fire may be more, and what schedules missed comes in several."""
    retry_s: float = 30.0
    """A schedule that cannot fire (its definition cannot be read, the queue refuses its job) is tried again then."""
    back_s: float = 5.0
    """A clock that goes back by more is reported, and every schedule planned anew."""
    retention_s: float = 30 * 86_400.0
    """Occurrences are kept for so long."""
    sweep_every_s: float = 600.0
    sweep_rows: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.interval_s <= self.lease_ttl_s / 3 or self.lease_ttl_s > 3600:
            raise Invalid(
                f"lease_ttl_s {self.lease_ttl_s} must be at least three times interval_s {self.interval_s}, and an "
                f"hour at most: else the lease ends between two looks",
                code="bad_settings",
            )
        if min(self.rows_at_once, self.jobs_at_once, self.sweep_rows) < 1:
            raise Invalid("rows_at_once, jobs_at_once and sweep_rows are 1 or more", code="bad_settings")
        if min(self.late_s, self.retry_s, self.back_s, self.retention_s, self.sweep_every_s) <= 0:
            raise Invalid("waits of the scheduler are greater than 0", code="bad_settings")
