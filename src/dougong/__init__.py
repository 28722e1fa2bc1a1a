"""Dougong turns a Python CRUD service into a distributed system that holds under load, and proves it.

These names cover a first service; everything else is imported from its room (`from dougong.tcc import Participant`).
They are loaded when first asked for, so that a program that uses one room does not pay for all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dougong.app import App
    from dougong.contract import Message, Service, batched, rpc
    from dougong.dao import DAO, Entity
    from dougong.errors import Error

__all__ = ["DAO", "App", "Entity", "Error", "Message", "Service", "batched", "rpc"]

_HOMES = {
    "App": "dougong.app",
    "DAO": "dougong.dao",
    "Entity": "dougong.dao",
    "Error": "dougong.errors",
    "Message": "dougong.contract",
    "Service": "dougong.contract",
    "batched": "dougong.contract",
    "rpc": "dougong.contract",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dougong' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
