"""An app whose system file says Kafka: its jobs travel through a real broker, and no code of it changes."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import pytest
from tests import engines
from tests.app.conftest import PATIENCE_S
from tests.app.jobbing import Place, app
from tests.app.test_jobs import Asking, ended
from tests.app.test_run import instances, serving

from dougong.app import RunSettings
from dougong.errors import DeadlineExceeded, Internal
from dougong.jobs import EnqueuedJob, EnqueueJob, GetJob, JobState, ListJobs, NameSchedule

pytestmark = pytest.mark.xdist_group("kafka")  # one broker for all of them

FIRST_OF_LOG = 1 << 61
"""Ids from there on say where in the log their jobs were."""


def system_file(folder: Path, system: str) -> str:
    """One that says so."""
    path = folder / "system.toml"
    path.write_text(
        f'name = "{system}"\n[apps.jobbing]\ntarget = "tests.app.jobbing:app"\n'
        f'jobs = {{ engine = "kafka", servers = "{engines.kafka().address}" }}\n'
    )
    return str(path)


async def patiently(ask: Asking, what: EnqueueJob) -> EnqueuedJob:
    """The first of a queue makes its topic, which may take the broker longer than a caller waits by default."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await ask.jobs.enqueue(what)
            except DeadlineExceeded:
                await asyncio.sleep(0.1)


async def test_jobs_of_an_app_travel_through_kafka(tmp_path: Path) -> None:
    system = f"sample{secrets.token_hex(6)}"  # topics and group begin with it
    settings = RunSettings(data=str(tmp_path), system=system_file(tmp_path, system), drain_s=0.5)
    gate = tmp_path / "gate"
    async with serving(settings, app) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address, system) as ask:
            asked = await patiently(ask, EnqueueJob(job="look_up", arguments=b'{"sku":"lamp"}'))
            assert int(asked.id) >= FIRST_OF_LOG
            assert await ended(ask.jobs, asked.id) == "done 42"
            (listed,) = (await ask.jobs.list(ListJobs(limit=1))).items
            assert (await ask.jobs.list(ListJobs(limit=1, after=listed.id))).items == []
            placed = await ask.desk.place(Place(text="a"))  # in its own transaction: by the table
            assert int(placed.job) < FIRST_OF_LOG
            assert await ended(ask.jobs, placed.job) == f"done {os.getpid()}"
            with pytest.raises(Internal):
                await ask.desk.place(Place(text="b", fail=True))
            fired = await ask.schedules.run(NameSchedule(schedule="yearly"))
            assert await ended(ask.jobs, fired.jobs[0]) == f"done {os.getpid()}"
            held = await patiently(ask, EnqueueJob(job="hold", arguments=f'{{"open_when":"{gate}"}}'.encode()))
            async with asyncio.timeout(PATIENCE_S):
                while (await ask.jobs.get(GetJob(id=held.id))).state is not JobState.RUNNING:
                    await asyncio.sleep(0.02)
    gate.touch()
    async with serving(settings, app) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address, system) as ask:
            assert await ended(ask.jobs, held.id) == "done "
            assert (await ask.jobs.get(GetJob(id=held.id))).attempts == 1
    assert (tmp_path / "notes.txt").read_text() == "a\nyear\n"
