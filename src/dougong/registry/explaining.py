"""Why a call goes where it goes: the routing table in words, for people and for spans."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Explanation", "InvalidEntry", "Source", "Standing"]


class Source(StrEnum):
    """Where a table comes from."""

    NOTHING = "nothing"
    SNAPSHOT = "snapshot"
    """A file of an earlier life; the registry has not spoken yet."""
    REGISTRY = "registry"


class InvalidEntry(msgspec.Struct, frozen=True):
    """What stands under a service's prefix and is no instance of it."""

    key: str
    reason: str


class Standing(msgspec.Struct, frozen=True):
    """How one instance stands in a table."""

    address: str
    id: str
    state: str
    version: str
    zone: str
    weight: int
    epoch: int
    revision: int
    """Of its entry."""
    health: str
    """`alive`, `doubted`, `dead`."""
    called: bool
    reason: str
    """Why it is called or not."""


class Explanation(msgspec.Struct, frozen=True):
    """Who of a service is called, who is not, and how much the answer is worth."""

    service: str
    revision: int
    """Of the registry, that the table stands at."""
    age_s: float | None
    """Since the registry last confirmed the table, or since the snapshot was written; None when neither did."""
    source: Source
    stale: bool
    chosen: Standing | None
    """The instance that was asked about."""
    called: tuple[Standing, ...]
    """All that may be called."""
    excluded: tuple[Standing, ...]
    """All that are known and not called."""
    invalid: tuple[InvalidEntry, ...]
    """Entries that are passed over."""
