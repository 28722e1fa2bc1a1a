"""Which registry a command means: that of a data directory, of a profile of the system file, or a URL."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cyclopts

from dougong.app import configured_registry_url, default_system, load_system, running_registry_url
from dougong.cli.data import data_directory
from dougong.registry import Registry, open_registry

__all__ = ["REGISTRY", "RegistryAt", "near", "opened_registry"]


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class RegistryAt:
    """Parameters of all commands that ask the registry."""

    data: Path | None = None
    """Data directory of the running system; the default system's if left out."""
    registry: str = ""
    """URL of the registry, when it is not the data directory's."""
    profile: str = ""
    """Profile of the system file that the system was started with."""


REGISTRY = RegistryAt()
"""The one in the default system's data directory, unless the environment names another."""


@asynccontextmanager
async def opened_registry(at: RegistryAt) -> AsyncGenerator[Registry]:
    """The registry, opened and closed."""
    registry = await open_registry(_url(at))
    try:
        yield registry
    finally:
        await registry.close()


def near(word: str, words: Iterable[str]) -> str:
    """What `word` may have meant, as words for an error."""
    known = sorted(set(words))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or [w for w in known if word.lower() in w.lower()]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(known[:20])}" if known else "there is none"


def _url(at: RegistryAt) -> str:
    if at.registry:
        return at.registry
    system = load_system(default_system(), profile=at.profile) if at.profile else None
    return configured_registry_url(system) or running_registry_url(data_directory(at.data))
