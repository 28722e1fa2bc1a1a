"""One app in a process: from its declaration to something that serves, and back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from dougong.app._app import App
from dougong.app._inject import Injector
from dougong.app._participants import Participants
from dougong.app._ports import parse_address
from dougong.app._secrets import Secrets
from dougong.app._settings import APP_PREFIX, RunSettings
from dougong.app._shards import shards_layout
from dougong.app._status import Status
from dougong.app._system import System
from dougong.app._urls import configured_database_url, database_url
from dougong.clock import Clock
from dougong.config import load
from dougong.contract import Service, describe
from dougong.http import HttpFront, HttpServer
from dougong.registry import Discovery, Instance, InstanceState, Registration, Registry
from dougong.rpc import JwtIssuer, Server, client, close_client
from dougong.shard import ShardedStore, open_sharded_store
from dougong.store import Store, migrations_from, open_store
from dougong.tcc import ParticipantService
from dougong.telemetry import get_logger

__all__ = ["Host", "Running"]

log = get_logger(__name__)


@dataclass(frozen=True)
class Host:
    """What the apps of one process share."""

    settings: RunSettings
    system: System | None
    registry: Registry
    discovery: Discovery
    secrets: Secrets
    clock: Clock
    apps: int = 1
    """How many there are in the process."""

    @property
    def data(self) -> Path:
        """Where databases and keys are."""
        return Path(self.settings.data).absolute()

    def http_address(self, app: App) -> tuple[str, int]:
        """Where an app listens: of several in a process, the one with a front has the address that was asked for."""
        host, port = parse_address(self.settings.http, "http")
        return host, port if app.front or self.apps == 1 else 0


class Running:
    """Builds and serves an app. Everything opened is pushed on `stack`, which closes it in reverse order."""

    def __init__(self, host: Host, app: App, stack: AsyncExitStack) -> None:
        self._host = host
        self._app = app
        self._stack = stack
        self._injector = Injector(stack, self._provide)
        self._own: dict[type[Service], Service] = {}
        self._served: list[Service] = []
        self._clients: dict[str, Service] = {}

    async def build(self) -> None:
        """Make the database, the services and what they need."""
        injector, app, host = self._injector, self._app, self._host
        injector.add(Clock, host.clock)
        injector.add(Participants, Participants(self._client))
        injector.add(JwtIssuer, host.secrets.issuer(host.clock))
        if app.settings is not None:
            injector.add(app.settings, self._settings(app.settings))
        store: Store | ShardedStore | None = None
        if app.sharded:
            store = await self._open_sharded_store()
            injector.add(ShardedStore, store)
        elif app.migrations:
            store = await self._open_store()
            injector.add(Store, store)
        for provider in app.provide:
            injector.add_provider(provider)
        for kind in app.services:
            injector.add_class(kind)  # so that they may ask for each other, in whatever order they are named
        for work in app.prepare:
            await (await injector.build(work))
        for participant in app.participants:
            assert store is not None  # App() demands a database of an app with participants
            await self._start(ParticipantService(await injector.build(participant), store))
        for kind in app.services:
            self._own[kind] = cast(Service, await injector.get(kind, f"app {app.name}"))
            await self._start(self._own[kind])
        glance = await injector.build(app.glance) if app.glance is not None else None
        await self._start(Status(app.name, glance))

    async def serve(self) -> None:
        """Listen, then tell the registry; the other way round on the way out."""
        app, host = self._app, self._host
        settings, authenticator = host.settings, host.secrets.authenticator(host.clock)
        server = Server(self._served, authenticator=authenticator)
        self._stack.push_async_callback(server.stop)
        address = await server.start(f"{settings.host}:{settings.port}")
        routes = [(kind, self._own.get(kind) or await self._client(kind)) for kind in app.front]
        front = HttpFront(routes, authenticator=authenticator, title=host.secrets.system, version="1")
        http_host, http_port = host.http_address(app)
        http = HttpServer(front, http_host, http_port)
        self._stack.push_async_callback(http.stop, 0.0)
        listening = f"{f'[{http_host}]' if ':' in http_host else http_host}:{await http.start()}"
        log.info("serving", pid=os.getpid(), grpc=address, http=listening)  # first: then others may see it
        metadata = {"pid": str(os.getpid()), "http": listening, "instance": str(settings.instance)}
        identity = f"{app.name}-{settings.instance}-{os.getpid()}"
        instances = [
            Instance(service=name, address=address, app=app.name, id=identity, metadata=metadata)
            for name in (f"apps.{app.name}", *app.service_names)
        ]
        registration = Registration(host.registry, instances, ttl_s=settings.lease_s)
        self._stack.push_async_callback(self._leave, registration, http, server)
        await registration.start()

    async def background(self) -> AsyncIterator[Coroutine[object, object, None]]:
        """The app's background work, piece by piece, to be run at once."""
        for work in self._app.background:
            yield await self._injector.build(work)

    async def _leave(self, registration: Registration, http: HttpServer, server: Server) -> None:
        """Say so first, finish what was accepted, then go: nobody is sent to a closed door."""
        await registration.set_state(InstanceState.TERMINATING)
        await http.stop(self._host.settings.drain_s)
        await server.drain(self._host.settings.drain_s)
        await registration.stop()

    async def _open_store(self) -> Store:
        name, host = self._app.name, self._host
        url = configured_database_url(name, host.system) or database_url(host.data, name)
        store = await open_store(url, name=name, clock=host.clock)
        self._stack.push_async_callback(store.close)
        await store.migrate(self._app.name, migrations_from(self._app.migrations))
        return store

    async def _open_sharded_store(self) -> ShardedStore:
        name, host = self._app.name, self._host
        layout = shards_layout(name, host.system, host.data)
        store = await open_sharded_store(layout, clock=host.clock, watch=True, router=name)
        self._stack.push_async_callback(store.close)
        await store.migrate(name, migrations_from(self._app.migrations))
        return store

    async def _start(self, service: Service) -> None:
        await service.start()
        self._stack.push_async_callback(service.stop)
        self._served.append(service)

    def _settings(self, kind: type[msgspec.Struct]) -> msgspec.Struct:
        """From `[apps.NAME.settings]` of the system file, then `DOUGONG_APP_NAME_…` of the environment."""
        name, system = self._app.name, self._host.system
        spec = system.apps.get(name) if system is not None else None
        where = f"{self._host.settings.system} [apps.{name}.settings]"
        tables = [(where, spec.settings)] if spec is not None else []
        return load(kind, tables=tables, prefix=f"{APP_PREFIX}{name.upper()}_").value

    async def _provide(self, kind: type) -> object | None:
        """Services that this app does not serve itself are called through the registry."""
        if issubclass(kind, Service) and kind not in self._app.services:
            return await self._client(kind)
        return None

    async def _client(self, kind: type[Service]) -> Service:
        name = describe(kind).name
        if name not in self._clients:
            made = client(kind, await self._host.discovery.resolve(name), token=self._host.secrets.system_token)
            self._stack.push_async_callback(close_client, made)
            self._clients[name] = made
        return self._clients[name]
