"""Who works: takes jobs from a queue, runs them, and writes down how each ended.

The one idea: **what decides is plain, and what runs is thin.** `intake` says what to ask for and what to start,
`deciding` what becomes of an attempt, `deadlines` which one is late; none knows a clock, a queue or a task. Around them
`Worker` takes turns with the queue, and `Attempts` runs functions on the loop, in threads and in processes.

    worker = Worker(queue, [send_receipt], provide=container.get)
    await worker.run()                                   # until worker.stop(), or Ctrl-C
"""

from dougong.jobs.worker.catalog import AnyJob, Catalog
from dougong.jobs.worker.run import JobRun, current_job
from dougong.jobs.worker.settings import WorkerSettings
from dougong.jobs.worker.term import Renewer
from dougong.jobs.worker.worker import Worker

__all__ = ["AnyJob", "Catalog", "JobRun", "Renewer", "Worker", "WorkerSettings", "current_job"]
