"""Apps with jobs: in their own transactions, with what their injector has, in this process and in workers beside it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest
from tests.app.conftest import PATIENCE_S, running, until
from tests.app.jobbing import Desk, Place, app, hold, look_up, note
from tests.app.test_run import instances, serving

from dougong.app import App, RunSettings, load_system, read_secrets
from dougong.contract import Service
from dougong.errors import Internal, Invalid
from dougong.jobs import (
    EnqueueJob,
    GetJob,
    JobsService,
    JobState,
    NameSchedule,
    SchedulesService,
    current_job,
    job,
    needs,
)
from dougong.rpc import client, close_client
from dougong.store import Store


async def ended(jobs: JobsService, id_: str) -> str:
    """The state in which a job ends, and its result."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := await jobs.get(GetJob(id=id_))).state in (JobState.WAITING, JobState.RUNNING):
            await asyncio.sleep(0.02)
    return f"{found.state.value} {found.result}{found.error}"


class Asking:
    """Clients of one process, closed with it."""

    def __init__(self, data: Path, address: str, system: str = "sample") -> None:
        token = read_secrets(data / "keys", system).system_token
        self.jobs = client(JobsService, [address], token=token)
        self.schedules = client(SchedulesService, [address], token=token)
        self.desk = client(Desk, [address], token=token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in (self.jobs, self.schedules, self.desk):
            made: Service = one
            await close_client(made)


async def test_jobs_run_in_the_apps_process_with_what_its_injector_has(tmp_path: Path) -> None:
    async with serving(RunSettings(data=str(tmp_path)), app) as it:
        (found,) = await instances(it.registry, "apps.")
        assert found.metadata["jobs"] == "yes"
        async with Asking(tmp_path, found.address) as ask:
            asked = await ask.jobs.enqueue(EnqueueJob(job="look_up", arguments=b'{"sku":"lamp"}'))
            assert await ended(ask.jobs, asked.id) == "done 42"
            placed = await ask.desk.place(Place(text="a"))
            assert await ended(ask.jobs, placed.job) == f"done {os.getpid()}"
            with pytest.raises(Internal):
                await ask.desk.place(Place(text="b", fail=True))
            fired = await ask.schedules.run(NameSchedule(schedule="yearly"))
            assert await ended(ask.jobs, fired.jobs[0]) == f"done {os.getpid()}"
    assert (tmp_path / "notes.txt").read_text() == "a\nyear\n"


async def test_a_job_may_ask_whether_its_effect_is_still_to_be_made(tmp_path: Path) -> None:
    @job
    async def once(store: Store = needs(Store)) -> list[bool]:
        return [await store.write(current_job().first) for _ in range(2)]

    sample = App("sample", migrations="shop.users.migrations", jobs=[once])
    async with serving(RunSettings(data=str(tmp_path)), sample) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address) as ask:
            asked = await ask.jobs.enqueue(EnqueueJob(job="once", arguments=b"{}"))
            assert await ended(ask.jobs, asked.id) == "done [true,false]"


async def test_what_runs_may_end_and_what_does_not_is_there_at_the_next_start(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with serving(RunSettings(data=str(tmp_path), drain_s=0.2), app) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address) as ask:
            held = await ask.jobs.enqueue(EnqueueJob(job="hold", arguments=f'{{"open_when":"{gate}"}}'.encode()))
            async with asyncio.timeout(PATIENCE_S):
                while (await ask.jobs.get(GetJob(id=held.id))).state is not JobState.RUNNING:
                    await asyncio.sleep(0.02)
    gate.touch()
    async with serving(RunSettings(data=str(tmp_path)), app) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address) as ask:
            assert await ended(ask.jobs, held.id) == "done "
            assert (await ask.jobs.get(GetJob(id=held.id))).attempts == 1  # an interruption is nobody's fault


async def test_a_need_that_nothing_provides_ends_the_start(tmp_path: Path) -> None:
    @job
    async def lonely(needed: bytes = needs(bytes)) -> None: ...

    with pytest.raises(TypeError, match="a job of alone asks for bytes, which nothing provides"):
        async with serving(RunSettings(data=str(tmp_path)), App("alone", jobs=[lonely])):
            pass


def test_two_jobs_of_one_name_are_refused_at_import() -> None:
    @job(name="note")
    async def other() -> None: ...

    with pytest.raises(TypeError, match="two jobs are named note"):
        App("twice", jobs=[note, other])


async def test_jobs_of_a_sharded_app_have_a_database_beside_its_own(tmp_path: Path) -> None:
    sharded = App("many", sharded=True, migrations="shop.users.migrations", jobs=[hold])
    gate = tmp_path / "gate"
    gate.touch()
    async with serving(RunSettings(data=str(tmp_path)), sharded) as it:
        (found,) = await instances(it.registry, "apps.")
        async with Asking(tmp_path, found.address) as ask:
            held = await ask.jobs.enqueue(EnqueueJob(job="hold", arguments=f'{{"open_when":"{gate}"}}'.encode()))
            assert await ended(ask.jobs, held.id) == "done "
    with closing(sqlite3.connect(tmp_path / "many_jobs.db")) as database:
        assert database.execute("SELECT count(*) FROM dougong_jobs").fetchone() == (1,)


WORKERS = """
[apps.jobbing]
target = "tests.app.jobbing:app"
workers = 1
jobs = { queues = { slow = 1 } }
"""


@pytest.mark.processes
async def test_workers_beside_the_app_do_its_jobs_and_follow_the_system_file(tmp_path: Path) -> None:
    async with running(tmp_path, WORKERS) as it:
        by_name = {process.name: process for process in it.supervisor.processes}
        assert list(by_name) == ["jobbing", "jobbing-worker"]
        data, gates = it.supervisor.data, [tmp_path / "one", tmp_path / "two"]
        async with Asking(data, by_name["jobbing"].address) as ask:
            placed = await ask.desk.place(Place(text="a"))
            assert await ended(ask.jobs, placed.job) == f"done {by_name['jobbing-worker'].pid}"
            held = [
                await ask.jobs.enqueue(EnqueueJob(job="hold", arguments=f'{{"open_when":"{gate}"}}'.encode()))
                for gate in gates
            ]

            async def states() -> list[str]:
                return [(await ask.jobs.get(GetJob(id=one.id))).state.value for one in held]

            async with asyncio.timeout(PATIENCE_S):
                while "running" not in await states():
                    await asyncio.sleep(0.05)
            path = tmp_path / "system.toml"
            path.write_text(path.read_text().replace("slow = 1", "slow = 2"))
            await until(lambda: it.said("concurrency of jobs read again"))
            async with asyncio.timeout(PATIENCE_S):
                while await states() != ["running", "running"]:
                    await asyncio.sleep(0.05)
            gates[0].touch()
            gates[1].touch()
            assert [await ended(ask.jobs, one.id) for one in held] == ["done ", "done "]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("workers = 65", "workers must be 0 to 64"),
        ('jobs = { engine = "kafka" }', "go together"),
        ('jobs = { servers = "a:1" }', "go together"),
        ("jobs = { queues = { slow = 0 } }", "queues.slow must be 1 to 10,000"),
        ('jobs = { database = "nosql://x" }', "jobs.database"),
    ],
)
def test_what_a_system_file_says_about_jobs_is_checked(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n[apps.a]\ntarget = "a:b"\n{lines}\n')
    with pytest.raises(Invalid, match=said):
        load_system(path)


def test_a_profile_may_say_kafka(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(
        'name = "sample"\n[apps.a]\ntarget = "a:b"\n'
        '[profiles.cluster.apps.a.jobs]\nengine = "kafka"\nservers = "127.0.0.1:9092"\n'
    )
    assert load_system(path).apps["a"].jobs.engine == "sql"
    assert load_system(path, profile="cluster").apps["a"].jobs.servers == "127.0.0.1:9092"
    assert look_up.name == "look_up"
