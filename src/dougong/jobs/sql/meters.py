"""What the engine counts."""

from __future__ import annotations

from dougong.telemetry import counter, gauge

__all__ = ["claimed", "ended", "head_age_s", "lost", "put", "reaped", "swept"]

put = counter(
    "dougong_jobs_put_total", "Jobs put, those whose transaction was undone included, by queue.", labels=("queue",)
)
claimed = counter("dougong_jobs_claimed_total", "Jobs that workers of this process took.", labels=("queue",))
ended = counter("dougong_jobs_ended_total", "Attempts that ended, by outcome.", labels=("queue", "outcome"))
lost = counter("dougong_jobs_lost_total", "Ends not written: the job was no longer its worker's.")
reaped = counter(
    "dougong_jobs_reaped_total", "Jobs taken back from workers that died or fell silent.", labels=("outcome",)
)
swept = counter("dougong_jobs_swept_total", "Finished jobs forgotten after they were kept long enough.")
head_age_s = gauge(
    "dougong_jobs_head_age_seconds", "How long the first job of a queue had been due when it was taken.", ("queue",)
)
