"""What live says on the wire."""

from __future__ import annotations

from dougong.contract import Message

__all__ = ["FindGateway", "FoundGateway"]


class FindGateway(Message):
    """Where a page connects."""


class FoundGateway(Message):
    """`url` if it is somewhere else; otherwise at `port` of the host that the page came from."""

    url: str
    port: int
    path: str
