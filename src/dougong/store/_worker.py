"""One thread for what blocks: the sync of a commit, waiting for another process's lock, opening files.

Cheaper than an executor (one queue put, one wake-up of the loop, no future of its own), and there is never more than
one, so what is handed to it happens in order.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Worker"]

Job = Callable[[], None]
Done = Callable[[Exception | None], None]


class Worker:
    """Runs jobs one after another and calls back on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"store-{name}", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` in the thread, then `done(error or None)` on the loop."""
        self._jobs.put((job, done))

    async def call(self, job: Job) -> None:
        """Run `job` in the thread and wait for it, to the end even when the caller is cancelled."""
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._jobs.put((job, done))
        await asyncio.shield(future)

    def stop(self) -> None:
        """Let the thread end after what it was given."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            failure: Exception | None = None
            try:
                job()
            except Exception as error:  # noqa: BLE001 (whatever it is, the loop's side decides)
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, failure)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear of it
            del item, job, done, failure
