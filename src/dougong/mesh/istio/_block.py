"""One block of a policy as it takes effect, and where each of its values was written."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from dougong.mesh.istio._problems import Place

__all__ = ["Block"]

T = TypeVar("T")


class Block(msgspec.Struct, Generic[T], frozen=True):
    value: T
    place: Place
    places: dict[str, Place] = {}
    """By attribute of `value`. What is not here is a default."""
