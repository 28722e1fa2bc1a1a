"""From a URL in the settings to a registry."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from dougong.clock import Clock
from dougong.errors import Invalid, Unavailable
from dougong.registry._protocol import Registry
from dougong.registry.local import LocalRegistry
from dougong.registry.memory import MemoryRegistry
from dougong.telemetry import get_logger


async def open_registry(
    url: str, *, clock: Clock | None = None, patient: bool = False, insecure_network: bool = False
) -> Registry:
    """The registry behind `url`, ready to use.

    `memory://` is a new one inside this process; `local:///run/shop/registry.db` is a file that all processes of this
    machine share, created when missing; `etcd://host:2379,host2:2379` (or `etcds://` over TLS) is a cluster, see
    `dougong.registry.etcd.EtcdSettings` for what may follow. Raises `Invalid` (`registry_url`) for anything else,
    `Unavailable` when the file cannot be used or the cluster does not answer; who is `patient` gets a cluster that does
    not answer yet all the same, for whatever asks again by itself. A password goes to another machine over TLS only
    (`insecure_network`), unless `insecure_network` or DOUGONG_INSECURE_NETWORK says otherwise.
    """
    if url.startswith(("etcd://", "etcds://")):
        return await _open_etcd(url, patient, insecure_network)
    try:
        parts = urlsplit(url)
    except ValueError:  # its words may repeat a password
        raise _refuse(url) from None
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
    raise _refuse(url)


def _refuse(url: str) -> Invalid:
    # A mistyped etcd URL may have a password before its hosts, or in its query.
    url = re.sub(r"\A(\w*:?/*).*@", r"\1…@", url, flags=re.ASCII | re.DOTALL).partition("?")[0]
    return Invalid(
        f"registry URL {url!r} is not understood; use memory://, local:///absolute/path or etcd://host:2379",
        code="registry_url",
        url=url,
    )


async def _open_etcd(url: str, patient: bool, insecure_network: bool) -> Registry:
    from dougong.registry.etcd import EtcdRegistry, EtcdSettings  # here, so that only who uses it pays for gRPC

    etcd = EtcdRegistry(EtcdSettings.parse(url, insecure_network=insecure_network))
    try:
        await etcd.open()
    except BaseException as error:
        if patient and isinstance(error, Unavailable) and error.code == "registry_unreachable":
            get_logger(__name__).warning("registry_unreachable", reason=error.message)
        else:
            await etcd.close()
            raise
    return etcd
