"""Epochs: of two that claim the same name, the older is over.

A process that stood still for a minute comes back and registers as if nothing had happened, while its successor serves.
Leases and revisions do not tell the two apart; the epoch does, if whoever starts processes counts it up.
"""

from __future__ import annotations

from collections.abc import Sequence

from dougong.registry._protocol import Instance

IDS_MAX = 10_000
_NOBODY: tuple[str, ...] = ()


class Fences:
    """The highest epoch seen of each id, and who bears the id now.

    Remembered after the bearer left: a late one of an older epoch stays outside. Ids without a bearer are forgotten,
    oldest first, when there are more than 10,000.
    """

    __slots__ = ("_bearers", "_epochs")

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._bearers: dict[str, set[str]] = {}

    def seen(self, instance: Instance) -> Sequence[str]:
        """Take note of an instance; other addresses that are over by it."""
        if not instance.epoch or not instance.id:
            return _NOBODY
        bearers = self._bearers.setdefault(instance.id, set())
        bearers.add(instance.address)
        if instance.epoch <= self._epochs.get(instance.id, 0):
            return _NOBODY
        self._epochs.pop(instance.id, None)
        self._epochs[instance.id] = instance.epoch
        if len(self._epochs) > IDS_MAX:
            oldest = next((name for name in self._epochs if name not in self._bearers), None)
            if oldest is not None:
                del self._epochs[oldest]
        return sorted(bearers - {instance.address})

    def removed(self, instance: Instance) -> None:
        bearers = self._bearers.get(instance.id)
        if bearers is not None:
            bearers.discard(instance.address)
            if not bearers:
                del self._bearers[instance.id]

    def fenced(self, instance: Instance) -> bool:
        """Whether the instance is of an older epoch than another with its id."""
        return 0 < instance.epoch < self.epoch(instance.id)

    def epoch(self, id: str) -> int:  # noqa: A002 (it is the field's name)
        """The highest seen; 0 for none."""
        return self._epochs.get(id, 0)

    @staticmethod
    def over(present: Instance, written: Instance) -> bool:
        """Whether what is written under an address is older than what is there."""
        return 0 < written.epoch < present.epoch
