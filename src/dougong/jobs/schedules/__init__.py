"""Schedules: jobs that are enqueued by the clock, for what a crontab did.

The one idea: **a fire is a row with its time as its key, written together with its job.** Which times there are follows
from the definition alone, so any process computes the same; which of them happened, the rows say. Schedulers may be
several, die, sleep and wake: a fire happens in a transaction that finds their lease still lasting, or not at all.

    schedules = [
        Schedule("sweep", Every(60), sweep.call()),
        Schedule("report", Cron("30 2 * * *", "Europe/Berlin", Dst.ONCE), report.call(), misfire=Misfire.ONCE),
    ]
    scheduler = Scheduler(queue, store, schedules)
    await scheduler.start()
    await scheduler.run()

Daylight saving time is a policy of the schedule (`Dst`), as is what becomes of a fire that is late (`Misfire`) or meets
the unfinished job of an earlier one (`Overlap`). `Schedules` are the operations: list, show, pause, run now, backfill.

It does not: know seconds in cron text (`Every` does), run anything itself, or fire what was due while a schedule was
paused or not declared.
"""

from dougong.jobs.schedules.cron import CRON_CHARS_MAX
from dougong.jobs.schedules.declare import Schedule
from dougong.jobs.schedules.dst import Dst
from dougong.jobs.schedules.misfire import Misfire
from dougong.jobs.schedules.operating import Backfilled, Schedules, ScheduleStatus, ScheduleView, Upcoming
from dougong.jobs.schedules.overlap import Overlap
from dougong.jobs.schedules.rows import FireCause, FireDecision, Occurrence
from dougong.jobs.schedules.scheduler import Scheduler
from dougong.jobs.schedules.settings import SchedulerSettings
from dougong.jobs.schedules.times import At, Cron, Every, When

__all__ = [
    "CRON_CHARS_MAX",
    "At",
    "Backfilled",
    "Cron",
    "Dst",
    "Every",
    "FireCause",
    "FireDecision",
    "Misfire",
    "Occurrence",
    "Overlap",
    "Schedule",
    "ScheduleStatus",
    "ScheduleView",
    "Scheduler",
    "SchedulerSettings",
    "Schedules",
    "Upcoming",
    "When",
]
