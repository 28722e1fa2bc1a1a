"""What can be set about a worker."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["WorkerSettings"]

INTAKE_MAX = 10_000
"""What a queue gives and takes in one transaction."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds and patience. Seconds, unless the name says else."""

    queues: tuple[str, ...] = ()
    """Which queues to work on; empty is those that the jobs name."""
    concurrency: int = 10
    """Jobs of a queue that run at once, unless an operator set another number (`QueueSettings`)."""
    concurrency_of: Mapping[str, int] = {}
    """The same for single queues."""
    intake: int = 1000
    """Jobs of all queues that are claimed and not yet written down as ended: waiting here, or running."""
    ttl_s: float = 15.0
    """A worker that is not heard of for so long has lost its jobs. Renewed three times as often."""
    look_s: float = 0.8
    """At least so often the queue is asked, for jobs, settings and cancellations. What an operator says is to hold
    within a second, and a worker whose jobs are all long hears of it by looking, and then takes what it may by a turn.
    """
    turn_timeout_s: float = 30.0
    reap_every_s: float = 5.0
    drain_s: float = 30.0
    """How long running jobs may go on once the worker is asked to stop."""
    grace_s: float = 5.0
    """How long a job may take to end once it is cancelled, or timed out."""
    report_s: float = 0.5
    """Progress is written at most so often."""
    blocked_s: float = 1.0
    """A job that holds up the event loop for longer is named."""
    unknown_delay_s: float = 10.0
    """When a job comes again whose name no one here knows: it may be newer than this worker."""
    unknown_returns: int = 60
    """So often; then it is dead."""
    process_jobs: int = 100
    """A process for jobs is replaced after so many, so that what they leak is bounded."""
    process_idle_s: float = 60.0

    def __post_init__(self) -> None:
        if self.intake > INTAKE_MAX:
            raise TypeError(f"an intake of {self.intake:,} is too large; {INTAKE_MAX:,} at most")
        if not (self.concurrency >= 1 and self.intake >= 1 and all(n >= 1 for n in self.concurrency_of.values())):
            raise TypeError("concurrency and intake of a worker must be 1 or more")
        if min(self.ttl_s, self.look_s, self.turn_timeout_s, self.reap_every_s, self.report_s, self.blocked_s) <= 0:
            raise TypeError("times of a worker must be greater than 0")
