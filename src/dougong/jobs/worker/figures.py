"""What a worker counts."""

from __future__ import annotations

from dougong.jobs._protocol import Outcome
from dougong.telemetry import counter, gauge, histogram

__all__ = [
    "BLOCKED",
    "DURATION",
    "ENDED",
    "INTAKE",
    "LEAKED",
    "LIMIT",
    "LOST",
    "PICKUP",
    "RUNNING",
    "STARTED",
    "STRAYS",
    "TERMS",
    "Tally",
]

_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

STARTED = counter("dougong_job_attempts_started_total", "Attempts started.", labels=("job",))
ENDED = counter(
    "dougong_job_attempts_ended_total", "Attempts ended, by what became of them.", labels=("job", "outcome")
)
LOST = counter("dougong_jobs_ends_lost_total", "Ends that were not written: the job was another's by then.")
DURATION = histogram("dougong_job_seconds", "How long attempts ran.", buckets=_BUCKETS_S, labels=("job",))
PICKUP = histogram(
    "dougong_job_pickup_seconds", "From being due to being started.", buckets=_BUCKETS_S, labels=("job",)
)
RUNNING = gauge("dougong_jobs_running", "Jobs that run now.", labels=("queue",))
INTAKE = gauge("dougong_jobs_intake", "Jobs claimed and waiting in this process.", labels=("queue",))
LIMIT = gauge("dougong_jobs_concurrency_limit", "Jobs that may run at once.", labels=("queue",))
BLOCKED = counter("dougong_jobs_loop_blocked_total", "Times that a job held up the event loop.", labels=("job",))
LEAKED = counter("dougong_jobs_tasks_leaked_total", "Tasks that jobs left behind.", labels=("job",))
STRAYS = counter(
    "dougong_jobs_strays_total", "Attempts that went on after they were cancelled or timed out.", labels=("job",)
)
TERMS = counter("dougong_jobs_terms_lost_total", "Times that a worker lost its hold on its jobs.")


class Tally:
    """Attempts of one job's name that are not counted yet: four metrics for each would cost as much as a short job."""

    __slots__ = ("durations_s", "ended", "job", "pickups_s")

    def __init__(self, job: str) -> None:
        self.job = job
        self.pickups_s: list[float] = []
        self.durations_s: list[float] = []
        self.ended: dict[Outcome, int] = {}

    def count(self) -> None:
        """Count them."""
        pickups_s, self.pickups_s = self.pickups_s, []
        durations_s, self.durations_s = self.durations_s, []
        ended, self.ended = self.ended, {}
        if pickups_s:
            STARTED.inc(len(pickups_s), self.job)
            PICKUP.observe_all(pickups_s, self.job)
        if durations_s:
            DURATION.observe_all(durations_s, self.job)
        for outcome, count in ended.items():
            ENDED.inc(count, self.job, outcome.value)
