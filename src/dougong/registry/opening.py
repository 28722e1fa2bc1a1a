"""From a URL in the settings to a registry."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from dougong.clock import Clock
from dougong.errors import Invalid
from dougong.registry._protocol import Registry
from dougong.registry.local import LocalRegistry
from dougong.registry.memory import MemoryRegistry


async def open_registry(url: str, *, clock: Clock | None = None) -> Registry:
    """The registry behind `url`, ready to use.

    `memory://` is a new one inside this process; `local:///run/shop/registry.db` is a file that all processes of this
    machine share, created when missing. Raises `Invalid` (`registry_url`) for anything else, `Unavailable` when the
    file cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory" and not parts.netloc and not parts.path:
        return MemoryRegistry(clock)
    if parts.scheme == "local" and not parts.netloc and parts.path not in {"", "/"}:
        registry = LocalRegistry(unquote(parts.path), clock)
        try:
            await registry.list("/")  # now, so that a wrong path is found at start
        except BaseException:
            await registry.close()
            raise
        return registry
    raise Invalid(
        f"registry URL {url!r} is not understood; use memory:// or local:///absolute/path", code="registry_url", url=url
    )
