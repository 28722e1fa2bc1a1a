"""The apps of a running system that have jobs, and the contract by which each is asked about them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cyclopts

from dougong.app import load_run_settings, network_transport, read_secrets
from dougong.cli.data import data_directory
from dougong.cli.finding import RegistryAt, near, opened_registry
from dougong.cli.instances import list_services, readable
from dougong.contract import Service
from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.jobs import GetDeclared, GetQueues, JobsService, SchedulesService
from dougong.registry import Instance, InstanceState
from dougong.rpc import client, close_client

__all__ = ["DESKS", "DesksAt", "desk_with", "opened_desks", "opened_schedules", "with_job", "with_queue"]

T = TypeVar("T")
D = TypeVar("D", bound=Service)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class DesksAt:
    """Parameters of all commands about jobs."""

    app: str = ""
    """Only this app's jobs."""
    data: Path | None = None
    """Data directory of the running system; the default system's if left out."""
    registry: str = ""
    """URL of the registry, when it is not the data directory's."""
    profile: str = ""
    """Profile of the system file that the system was started with."""


DESKS = DesksAt()
"""All apps of the default system."""


@asynccontextmanager
async def opened_desks(at: DesksAt) -> AsyncGenerator[Mapping[str, JobsService]]:
    """App name → its jobs, of those that run. Raises `NotFound` and `Unavailable` saying what to start."""
    async with _opened(at, JobsService) as desks:
        yield desks


@asynccontextmanager
async def opened_schedules(at: DesksAt) -> AsyncGenerator[Mapping[str, SchedulesService]]:
    """App name → its schedules, likewise."""
    async with _opened(at, SchedulesService) as desks:
        yield desks


@asynccontextmanager
async def _opened(at: DesksAt, kind: type[D]) -> AsyncGenerator[dict[str, D]]:
    directory = data_directory(at.data)
    token = read_secrets(directory / "keys", "dougong").system_token
    async with opened_registry(RegistryAt(at.data, at.registry, at.profile)) as registry:
        found, _ = readable(await list_services(registry, "/services/apps."))
    addresses: dict[str, list[str]] = {}
    for instance in found:
        if instance.metadata.get("jobs") and instance.state is InstanceState.SERVING:
            addresses.setdefault(instance.app, []).append(instance.address)
    if at.app and at.app not in addresses:
        raise _absent(at.app, found, addresses)
    if not addresses:
        raise Unavailable(f"no app that has jobs runs on {directory}; start one with 'dougong up'", code="not_running")
    transport = network_transport(load_run_settings())
    desks = {
        app: client(kind, where, token=token, transport=transport)
        for app, where in sorted(addresses.items())
        if not at.app or app == at.app
    }
    try:
        yield desks
    finally:
        for desk in desks.values():
            await close_client(desk)


def _absent(app: str, found: list[Instance], having: Mapping[str, object]) -> Error:
    if any(instance.app == app for instance in found):
        return NotFound(f"app {app!r} has no jobs: {near(app, having)}", code="no_jobs")
    return Unavailable(
        f"app {app!r} is not running, so it cannot be asked: {near(app, (i.app for i in found))}", code="not_running"
    )


async def desk_with(desks: Mapping[str, D], what: str, ask: Callable[[D], Awaitable[T]]) -> tuple[str, T]:
    """The one app that knows what is asked about, and its answer; every app numbers its jobs and names its queues.

    Raises `NotFound` with what each app said, and `Invalid` (`ambiguous`) when several know it.
    """
    answers: dict[str, T] = {}
    refusals: dict[str, NotFound] = {}
    for app, desk in desks.items():
        try:
            answers[app] = await ask(desk)
        except NotFound as error:
            refusals[app] = error
    if len(answers) > 1:
        raise Invalid(f"{' and '.join(answers)} have {what}; choose with --app", code="ambiguous")
    if answers:
        return next(iter(answers.items()))
    first = next(iter(refusals.values()))
    if len(refusals) == 1:
        raise first
    said = "; ".join(f"{app}: {error.message}" for app, error in refusals.items())
    raise NotFound(f"no app has {what}. {said}", code=first.code)


async def _only_with(desks: Mapping[str, JobsService], kind: str, name: str, names: Mapping[str, set[str]]) -> str:
    """The one app that has something of that name."""
    having = [app for app in desks if name in names[app]]
    if len(having) > 1:
        raise Invalid(f"{' and '.join(having)} have a {kind} {name!r}; choose with --app", code="ambiguous")
    if not having:
        known = near(name, set().union(*names.values()))
        raise NotFound(f"there is no {kind} {name!r}: {known}", code=f"unknown_{kind}")
    return having[0]


async def with_job(desks: Mapping[str, JobsService], name: str) -> str:
    names = {app: {j.name for j in (await desk.declared(GetDeclared())).items} for app, desk in desks.items()}
    return await _only_with(desks, "job", name, names)


async def with_queue(desks: Mapping[str, JobsService], name: str) -> str:
    names = {app: {q.queue for q in (await desk.queues(GetQueues())).items} for app, desk in desks.items()}
    return await _only_with(desks, "queue", name, names)
