"""Clients of transaction participants, by their class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from dougong.contract import Service
from dougong.tcc import Participant, ParticipantClient, participant_service

__all__ = ["Participants"]


class Participants:
    """Injected where a coordinator is made: `await participants.connect(StockHolds, WalletHolds)`."""

    def __init__(self, client: Callable[[type[Service]], Awaitable[Service]]) -> None:
        self._client = client

    async def connect(self, *participants: type[Participant]) -> dict[str, ParticipantClient]:  # type: ignore[type-arg]
        """Service name → client, found through the registry."""
        return {p.service: cast(ParticipantClient, await self._client(participant_service(p))) for p in participants}
