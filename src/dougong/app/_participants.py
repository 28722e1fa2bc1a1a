"""Clients of transaction participants, by their class."""

from __future__ import annotations

from collections.abc import Callable

from dougong.tcc import Participant, ParticipantClient

__all__ = ["Participants"]


class Participants:
    """Injected where a coordinator is made: `participants.connect(StockHolds, WalletHolds)`."""

    def __init__(self, connect: Callable[[type[Participant]], ParticipantClient]) -> None:  # type: ignore[type-arg]
        self._connect = connect

    def connect(self, *participants: type[Participant]) -> dict[str, ParticipantClient]:  # type: ignore[type-arg]
        """Service name → client, found through the registry."""
        return {participant.service: self._connect(participant) for participant in participants}
