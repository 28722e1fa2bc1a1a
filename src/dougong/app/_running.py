"""One app in a process: from its declaration to something that serves, and back."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec

from dougong.app._advertise import advertised_grpc, advertised_http, bracketed
from dougong.app._app import App
from dougong.app._connections import Connections, GatewayAddress
from dougong.app._following import FollowedKeys
from dougong.app._home import home_of
from dougong.app._inject import Injector
from dougong.app._jobs import RunningJobs
from dougong.app._mesh import load_mesh
from dougong.app._network import network_transport
from dougong.app._participants import Participants
from dougong.app._ports import parse_address
from dougong.app._secrets import Secrets
from dougong.app._settings import APP_PREFIX, RunSettings
from dougong.app._shards import shards_layout
from dougong.app._status import Status
from dougong.app._system import AppSpec, DataDirectory, System, SystemName
from dougong.app._urls import configured_database_url, database_url
from dougong.clock import Clock
from dougong.config import load
from dougong.contract import Service, describe
from dougong.errors import Invalid
from dougong.gateway import Counts, Evening, EveningSettings, FanOut, Gateway, InProcess, LocalFanOut
from dougong.http import HttpFront, HttpServer
from dougong.jobs import Jobs
from dougong.registry import Discovery, DrainRequest, Instance, InstanceState, Registration, Registry, drain_asked
from dougong.rpc import EndedSessions, JwtAuthenticator, JwtIssuer, Server, client, close_client
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
    keys: FollowedKeys
    clock: Clock
    ended: EndedSessions = field(default_factory=EndedSessions)
    """Whose tokens are not believed any more; the apps say so."""
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
        self._transport = network_transport(host.settings)
        self._injector = Injector(stack, self._provide)
        self._own: dict[type[Service], Service] = {}
        self._served: list[Service] = []
        self._authenticator = host.keys.authenticator(host.ended)
        self._gateway: Gateway | None = None
        self._gateway_address = GatewayAddress()
        self._clients: dict[str, Service] = {}
        self._jobs: RunningJobs | None = None
        spec = host.system.apps.get(app.name) if host.system is not None else None
        self._spec = spec if spec is not None else AppSpec(target="")
        duty = host.settings.duty or ("serve" if self._spec.workers else "both")
        self._serves, self._works = duty != "work", duty != "serve"
        settings = host.settings
        self._mesh = load_mesh(
            host.system, Path(settings.system), app.name, version=settings.version, zone=settings.zone
        )
        # With an epoch the name is borne by one process after the other; without, each has its own. A process id
        # alone would not do: in containers all have the same.
        life = "" if settings.epoch else f"-{os.getpid()}-{secrets.token_hex(4)}"
        self._identity = f"{app.name}{'' if self._serves else '-worker'}-{settings.instance}{life}"

    async def build(self) -> None:
        """Make the database, the services and what they need."""
        injector, app, host = self._injector, self._app, self._host
        injector.add(Clock, host.clock)
        injector.add(SystemName, SystemName(host.secrets.system))
        injector.add(DataDirectory, DataDirectory(host.data))
        injector.add(Participants, Participants(self._client))
        injector.add(JwtIssuer, host.keys.issuer)
        injector.add(JwtAuthenticator, self._authenticator)
        injector.add(EndedSessions, host.ended)
        if app.gateway is not None:
            injector.add(GatewayAddress, self._gateway_address)
            injector.add(FanOut, self._fan_out())
            injector.add_provider(app.gateway)
        if app.settings is not None:
            injector.add(app.settings, self._settings(app.settings))
        store: Store | ShardedStore | None = None
        if app.sharded:
            store = await self._open_sharded_store()
            injector.add(ShardedStore, store)
        elif app.migrations or app.has_jobs:
            store = await self._open_store()
            injector.add(Store, store)
        if app.has_jobs:
            self._jobs = await self._open_jobs(cast("Store | None", None if app.sharded else store))
            injector.add(Jobs, self._jobs.client)
        for provider in app.provide:
            injector.add_provider(provider)
        for kind in app.services:
            injector.add_class(kind)  # so that they may ask for each other, in whatever order they are named
        for work in app.prepare:
            await (await injector.build(work))
        if self._serves:
            await self._build_services(store)
        if self._jobs is not None:
            for _, service in self._jobs.services:
                await self._start(service)
            if self._works:
                await self._jobs.prepare(injector, self._spec.jobs, self._identity)
        glance = await injector.build(app.glance) if app.glance is not None and self._serves else None
        await self._start(Status(app.name, glance, self._mesh))

    async def _build_services(self, store: Store | ShardedStore | None) -> None:
        app, injector = self._app, self._injector
        for participant in app.participants:
            assert store is not None  # App() demands a database of an app with participants
            await self._start(ParticipantService(await injector.build(participant), store))
        for kind in app.services:
            self._own[kind] = cast(Service, await injector.get(kind, f"app {app.name}"))
            await self._start(self._own[kind])
        if app.gateway is not None:
            self._gateway = cast(Gateway, await injector.get(Gateway, f"app {app.name}"))
            instances = self._host.settings.instances
            if instances > 1 and self._gateway.alone:
                raise Invalid(
                    f"app {app.name} has {instances} instances, but what one of them publishes would not "
                    "reach those who are connected to another: have the function that makes its gateway ask for a "
                    "FanOut, and pass it on as Gateway(..., fan_out=fan_out); or run one instance",
                    code="gateway_alone",
                )
            await self._start(Connections(self._gateway, self._gateway_address))

    async def serve(self) -> None:
        """Listen, then tell the registry; the other way round on the way out."""
        app, host = self._app, self._host
        settings, authenticator = host.settings, self._authenticator
        server = Server(self._served, authenticator=authenticator, transport=self._transport)
        self._stack.push_async_callback(server.stop)
        address = await server.start(f"{bracketed(settings.host)}:{settings.port}")
        fronts = app.front if self._serves else ()
        routes: list[tuple[type[Service], Service]] = [
            (kind, self._own.get(kind) or await self._client(kind)) for kind in fronts
        ]
        if self._jobs is not None:
            routes += self._jobs.services
        front = HttpFront(
            routes,
            authenticator=authenticator,
            keys=host.keys.ring,
            title=host.secrets.system,
            version="1",
            trusted_proxies=settings.trusted_proxies,
            colouring=self._mesh.colouring if self._mesh is not None else None,
            files=app.files,
        )
        http_host, http_port = host.http_address(app)
        http = HttpServer(front, http_host, http_port)
        self._stack.push_async_callback(http.stop, 0.0)
        live = await self._open_gateway()  # first: a page that is served says where it is
        bound_port = await http.start()
        listening = f"{bracketed(http_host)}:{bound_port}"
        log.info("serving", pid=os.getpid(), grpc=address, http=listening, **live)  # first: then others may see it
        metadata = {
            "pid": str(os.getpid()),
            "http": advertised_http(settings, http_host, bound_port),
            "instance": str(settings.instance),
            "home": home_of(host.data),
            **live,
        }
        if pages := [path for path, file in app.files.items() if file.kind.startswith("text/html")]:
            metadata["pages"] = " ".join(pages)  # `dougong up` says where they are
        called_at = advertised_grpc(settings, address)
        if self._jobs is not None:
            metadata["jobs"] = "yes"  # `dougong jobs` asks here
        instances = [
            Instance(
                service=name,
                address=called_at,
                app=app.name,
                id=self._identity,
                version=settings.version,
                zone=settings.zone,
                weight=settings.weight,
                metadata=metadata,
                epoch=settings.epoch,
            )
            for name in self._names()
        ]
        registration = Registration(host.registry, instances, ttl_s=settings.lease_s)
        self._stack.push_async_callback(self._leave, registration, http, server)
        await registration.start()

    def _names(self) -> tuple[str, ...]:
        """The app's own name last: who sees the app, finds all it serves."""
        name = self._app.name
        return (*self._app.service_names, f"apps.{name}") if self._serves else (f"workers.{name}",)

    async def drain_asked(self) -> DrainRequest:
        """Wait until somebody asks this instance to leave."""
        return await drain_asked(self._host.registry, self._identity)

    async def background(self) -> AsyncIterator[Coroutine[object, object, None]]:
        """The app's background work, piece by piece, to be run at once."""
        for work in self._app.background if self._serves else ():
            yield await self._injector.build(work)
        if self._jobs is not None:
            for coroutine in self._jobs.background(fire=self._serves):
                yield coroutine
        if self._gateway is not None and self._shares_live:
            yield self._even_out(self._gateway)

    async def stop_working(self) -> None:
        """Before the rest stops: jobs still need all of it."""
        if self._jobs is not None:
            await self._jobs.stop()

    async def _leave(self, registration: Registration, http: HttpServer, server: Server) -> None:
        """Say so first, finish what was accepted, then go: nobody is sent to a closed door."""
        await registration.set_state(InstanceState.TERMINATING)
        await self._empty_gateway()
        await http.stop(self._host.settings.drain_s)
        await server.drain(self._host.settings.drain_s)
        await registration.stop()

    async def _open_gateway(self) -> dict[str, str]:
        """Listen for connections; what the registry is told of it."""
        if self._gateway is None:
            return {}
        host, port = parse_address(self._host.settings.live, "live")
        bound = await self._gateway.start(host, port, shared=self._shares_live)
        self._stack.push_async_callback(self._gateway.stop)
        self._gateway_address.address = f"{bracketed(host)}:{bound}"
        return {"live": self._gateway_address.address}

    @property
    def _shares_live(self) -> bool:
        """Whether the app's other instances listen for connections at the same port."""
        settings = self._host.settings
        return settings.instances > 1 and parse_address(settings.live, "live")[1] > 0

    @property
    def _hub(self) -> Path:
        """The folder by which the gateways of the app's instances know of each other."""
        return self._host.data / f"{self._app.name}.hub"

    def _fan_out(self) -> FanOut:
        return LocalFanOut(self._hub) if self._host.settings.instances > 1 else InProcess()

    async def _even_out(self, gateway: Gateway) -> None:
        settings, loop = self._host.settings, asyncio.get_running_loop()
        counts = Counts(max(settings.instances, settings.instance + 1), self._hub / "counts")
        evening = Evening(gateway, settings.instance, counts, EveningSettings(), loop.time())
        try:
            while True:
                evening.step(loop.time())
                await asyncio.sleep(1.0)
        finally:
            evening.leave()

    async def _empty_gateway(self) -> None:
        """Send all clients away at a pace that ends in half of the time that is given, but no stampede of few."""
        gateway, drain_s = self._gateway, self._host.settings.drain_s
        if gateway is None:
            return
        try:
            async with asyncio.timeout(drain_s):
                await gateway.drain(max(1000.0, len(gateway) / max(0.1, drain_s) * 2))
        except TimeoutError:
            log.warning("connections are closed that did not leave in time", connections=len(gateway))

    async def _open_store(self) -> Store:
        name, host = self._app.name, self._host
        store = await open_store(self._database_url(), name=name, clock=host.clock)
        self._stack.push_async_callback(store.close)
        if self._app.migrations:
            await store.migrate(self._app.name, migrations_from(self._app.migrations))
        return store

    async def _open_jobs(self, store: Store | None) -> RunningJobs:
        """In the app's own database; of many, none is that, so a sharded app's jobs have one beside them."""
        app, host, spec = self._app, self._host, self._spec.jobs
        if store is not None and spec.database:
            raise Invalid(
                f"jobs of {app.name} wait in its own database, so that a transaction can enqueue them: leave out "
                f"database in [apps.{app.name}.jobs]",
                code="invalid_system",
            )
        if store is None:
            name = f"{app.name}_jobs"
            url = configured_database_url(name, host.system) or spec.database or database_url(host.data, name)
            store = await open_store(url, name=name, clock=host.clock)
            self._stack.push_async_callback(store.close)
        else:
            name, url = app.name, self._database_url()

        async def reopen() -> Store:
            return await open_store(url, name=name, clock=host.clock)

        prefix = f"{host.secrets.system}.{app.name}.jobs."
        return await RunningJobs.open(app, store, host.clock, host.settings, spec, self._stack, reopen, prefix)

    def _database_url(self) -> str:
        name, host = self._app.name, self._host
        return configured_database_url(name, host.system) or database_url(host.data, name)

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
            resolver = await self._host.discovery.resolve(name)
            token = self._host.secrets.system_token
            made = client(kind, resolver, token=token, transport=self._transport, mesh=self._mesh)
            self._stack.push_async_callback(close_client, made)
            self._clients[name] = made
        return self._clients[name]
