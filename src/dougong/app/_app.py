"""What a user writes to make a process: `App("orders", services=[Orders])`."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from dougong.app._inject import Provider
from dougong.app._status import Glance
from dougong.contract import Service, describe
from dougong.errors import Invalid
from dougong.gateway import Gateway
from dougong.http import File
from dougong.jobs import Catalog, Job, Schedule
from dougong.tcc import Participant

__all__ = ["App", "load_app"]

Work = Callable[..., Awaitable[None]]


class App:
    """One kind of process: its services, its part in transactions, its database, its background work.

    - `services`: classes that are built (constructor injected) and served over gRPC.
    - `participants`: `Participant` classes, served with their fence on this app's database.
    - `front`: services of the system that this app also serves over HTTP; its own are served directly, others through
      their clients. An app with a front listens on an HTTP port.
    - `sharded`: its database is many: services ask for a `ShardedStore` instead of a `Store`.
    - `migrations`: package that holds `NNNN_name.sql`; naming one gives the app a database.
    - `settings`: a Struct; its values come from the system file and the environment (`DOUGONG_APP_USERS_CURRENCY=USD`).
    - `prepare`: injected async functions that run before the first request is taken, e.g. to seed an empty database.
    - `jobs`, `schedules`: what it runs later or by the clock. Its services may ask for `Jobs`; jobs wait in the app's
      own database (a sharded app gets one for them), and run in this process unless `workers` of it run beside it.
    - `provide`: functions whose return type others may ask for.
    - `background`: async functions, injected like constructors, that run as long as the process serves. One that fails
      ends the process, so that its supervisor restarts it.
    - `gateway`: an injected function that makes the `Gateway` of the process; it may ask for a `JwtAuthenticator`, and
      has to ask for a `FanOut` if the app is to have several instances, which share its port. Others may ask for the
      `Gateway`, to publish, and for its `GatewayAddress`.
    - `files`: what its front answers at paths of their own: pages, and what they load.
    - `glance`: an injected function that makes the one that makes the tables for the status page.
    """

    def __init__(
        self,
        name: str,
        *,
        services: Sequence[type[Service]] = (),
        participants: Sequence[type[Participant]] = (),  # type: ignore[type-arg]  # any payload
        front: Sequence[type[Service]] = (),
        migrations: str = "",
        sharded: bool = False,
        jobs: Sequence[Job[..., object]] = (),
        schedules: Sequence[Schedule] = (),
        settings: type[msgspec.Struct] | None = None,
        provide: Sequence[Provider] = (),
        prepare: Sequence[Work] = (),
        background: Sequence[Work] = (),
        glance: Callable[..., Glance] | None = None,
        gateway: Callable[..., Gateway] | None = None,
        files: Mapping[str, File] | None = None,
    ) -> None:
        if not name.isidentifier():
            raise TypeError(
                f"app name {name!r} must be an identifier: it names files, metrics and environment variables"
            )
        if participants and not migrations:
            raise TypeError(f"app {name!r} takes part in transactions, so it needs a database: pass migrations=")
        if sharded and not migrations:
            raise TypeError(f"app {name!r} is sharded, so it has databases: pass migrations=")
        _refuse_twice(name, [describe(s).name for s in services] + [p.service for p in participants])
        self.name = name
        self.services = tuple(services)
        self.participants = tuple(participants)
        self.front = tuple(front)
        self.migrations = migrations
        self.sharded = sharded
        self.jobs = Catalog(jobs)
        self.schedules = tuple(schedules)
        self.settings = settings
        self.provide = tuple(provide)
        self.prepare = tuple(prepare)
        self.glance = glance
        self.gateway = gateway
        self.files = dict(files or {})
        self.background = tuple(background)
        for service in self.front:
            describe(service)  # a declaration that cannot be served fails at import, not at the first call

    @property
    def has_jobs(self) -> bool:
        """Whether it has a queue."""
        return bool(len(self.jobs) or self.schedules)

    @property
    def service_names(self) -> tuple[str, ...]:
        """Full names under which this app registers."""
        return (*(describe(s).name for s in self.services), *(p.service for p in self.participants))

    def __repr__(self) -> str:
        return f"App({self.name!r})"


def _refuse_twice(app: str, names: Sequence[str]) -> None:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise TypeError(f"app {app!r} serves {twice} twice: name it once, or rename one")


def load_app(target: str) -> App:
    """The app named by `module:attribute`, e.g. `shop.orders:app`. Raises `Invalid` saying what is not there."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise Invalid(f"app target {target!r} is not of the form 'module:attribute', e.g. 'shop.orders:app'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise Invalid(f"app target {target!r}: no module named {error.name!r}", code="app_not_found") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        raise Invalid(f"app target {target!r}: {module_name} has no App called {attribute!r}", code="app_not_found")
    return app
