"""What an app tells about itself: served by every app that listens, shown by the status page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from dougong.contract import Message, Service, rpc
from dougong.mesh import Mesh

__all__ = [
    "AppStatus",
    "GetMesh",
    "GetStatus",
    "Glance",
    "MeshStatus",
    "Statistic",
    "Status",
    "StatusRow",
    "StatusTable",
]

_EJECTIONS_MAX = 200

Glance = Callable[[], Awaitable[Sequence["StatusTable"]]]


class GetStatus(Message):
    """Ask an app how it is."""


class StatusRow(Message):
    """Cells, as text, in the order of the columns."""

    cells: list[str]


class StatusTable(Message):
    """Something worth a glance: recent orders, a queue's length."""

    title: str
    columns: list[str]
    rows: list[StatusRow]


class AppStatus(Message):
    """An app's own words."""

    app: str
    tables: list[StatusTable]


class GetMesh(Message):
    """Ask an app what became of its calls to others."""


class Statistic(Message):
    """One of Envoy's numbers."""

    name: str
    value: int


class MeshStatus(Message):
    """Its clusters' counters and gauges, and the latest ejections, one JSON document each."""

    app: str
    statistics: list[Statistic]
    ejections: list[str]


class Status(Service, package="dougong.v1"):
    """How an app is, for the status page."""

    def __init__(self, app: str, glance: Glance | None, mesh: Mesh | None = None) -> None:
        self._app = app
        self._glance = glance
        self._mesh = mesh

    @rpc(internal=True, idempotent=True, timeout_s=1.0)
    async def get_mesh(self, request: GetMesh) -> MeshStatus:
        """What policy did so far in this process; nothing where none is set."""
        mesh = self._mesh
        if mesh is None:
            return MeshStatus(app=self._app, statistics=[], ejections=[])
        events = sorted((event for cluster in mesh.clusters for event in cluster.log.events), key=lambda e: e.time)
        return MeshStatus(
            app=self._app,
            statistics=[Statistic(name=name, value=value) for name, value in sorted(mesh.statistics().items())],
            ejections=[event.json() for event in events[-_EJECTIONS_MAX:]],
        )

    @rpc(internal=True, idempotent=True, timeout_s=1.0)
    async def get_status(self, request: GetStatus) -> AppStatus:
        """The app's tables, made now."""
        tables = await self._glance() if self._glance is not None else ()
        return AppStatus(app=self._app, tables=list(tables))
