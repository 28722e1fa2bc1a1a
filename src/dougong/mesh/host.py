"""One endpoint as everything that decides sees it: counters and marks, no connection."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Host"]


class Host:
    """Mutable, one per address and cluster. Who calls counts `in_flight`; outlier detection sets `ejected`.

    Its cluster keeps `away` up to date, which is what balancers look at.
    """

    __slots__ = (
        "address",
        "away",
        "ejected",
        "ewma",
        "in_flight",
        "joined_at",
        "labels",
        "locality",
        "outlier",
        "resting",
        "weight",
    )

    def __init__(
        self, address: str, *, weight: int = 100, locality: str = "", labels: Mapping[str, str] | None = None
    ) -> None:
        self.address = address
        self.weight = weight
        self.locality = locality
        """`region/zone/subzone`, as far as known."""
        self.labels: Mapping[str, str] = labels if labels is not None else {}
        self.in_flight = 0
        self.ejected = False
        """By outlier detection."""
        self.resting = False
        """Left alone for a moment by whoever calls it: it could not be reached just now."""
        self.away = False
        """Either: not to be picked."""
        self.joined_at = 0.0
        """When it was first seen: for warm-up."""
        self.ewma: object = None
        """What peak EWMA keeps about it."""
        self.outlier: object = None
        """What outlier detection keeps about it."""
