"""What an app tells about itself: served by every app that listens, shown by the status page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from dougong.contract import Message, Service, rpc

__all__ = ["AppStatus", "GetStatus", "Glance", "Status", "StatusRow", "StatusTable"]

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


class Status(Service, package="dougong.v1"):
    """How an app is, for the status page."""

    def __init__(self, app: str, glance: Glance | None) -> None:
        self._app = app
        self._glance = glance

    @rpc(internal=True, idempotent=True, timeout_s=1.0)
    async def get_status(self, request: GetStatus) -> AppStatus:
        """The app's tables, made now."""
        tables = await self._glance() if self._glance is not None else ()
        return AppStatus(app=self._app, tables=list(tables))
