"""What a process needs to know to run an app: where its data is, where the registry is, where to listen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from dougong.config import load

__all__ = ["APP_PREFIX", "DATABASE_PREFIX", "RunSettings", "load_run_settings"]

APP_PREFIX = "DOUGONG_APP_"
"""Start of the variables that set an app's own settings: `DOUGONG_APP_USERS_CURRENCY`."""


DATABASE_PREFIX = "DOUGONG_DATABASE_"
"""Start of the variables that say where an app's database is: `DOUGONG_DATABASE_ORDERS=mysql://...`."""


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set by flags of `dougong run` or by `DOUGONG_…` in the environment; `dougong up` sets them for its processes."""

    data: str = "var"
    """Directory of databases, keys and the local registry."""
    registry: str = ""
    """`local:///path`, `memory://`, `etcd://host:2379,…`; empty for what the system file says, or `registry.db` in the
    data directory."""
    host: str = "127.0.0.1"
    """Address to serve gRPC on. Others than loopback need TLS, or `insecure_network`."""
    advertise: str = ""
    """`host` or `host:port` at which others call it, for the registry; empty for where it listens, and if that is every
    address (`0.0.0.0`, `::`), for the one by which this machine is reached."""
    port: int = 0
    """gRPC port; 0 takes a free one, which the registry tells."""
    tls_ca: str = ""
    """PEM file of those who may sign certificates of the system's processes. With the next two set, processes talk by
    mutual TLS; the files may be replaced while they run."""
    tls_certificate: str = ""
    """PEM file: this process's certificate, shown as a server and as a client."""
    tls_key: str = ""
    """PEM file: its private key."""
    tls_server_name: str = ""
    """What every server's certificate is made out to; empty for the host it is called at."""
    insecure_network: bool = False
    """Serve gRPC without TLS on another address than loopback, and call others there, all the same."""
    http: str = "127.0.0.1:0"
    """`host:port` for apps with a front; also serves health and metrics for every app."""
    live: str = "127.0.0.1:0"
    """`host:port` for the gateway of an app that has one."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies before the front, whose `X-Forwarded-For` is believed: `["10.0.0.0/8"]`."""
    instance: int = 0
    """Number of this instance among its app's."""
    instances: int = 1
    """How many of them are on this machine: the gateways of several share `live`, and tell each other."""
    lease_s: float = 30.0
    drain_s: float = 10.0
    """How long a stopping process may take to finish what it accepted."""
    log_json: bool = False
    log_level: str = "info"
    trace_ratio: float = 1.0
    """Share of traces whose spans are recorded; errors always are."""
    duty: Literal["", "both", "serve", "work"] = ""
    """What a process of an app with jobs does: serve, work on jobs, or both. Empty is as the system file says: serve,
    when `workers` of the app work beside it, and both when it has none."""
    supervisor: int = 0
    """Process that this one must not outlive; 0 for none."""
    system: str = ""
    """System file whose `[apps.NAME.settings]` apply; empty for none."""
    profile: str = ""
    """Which of its `[profiles.NAME]` is laid over it; empty for none."""
    zone: str = ""
    """Where this process runs: callers may prefer their own zone."""
    version: str = ""
    """Of what it runs: callers may be sent to one version."""
    weight: int = 100
    """Its share of calls among its app's instances; 0 gets none."""
    epoch: int = 0
    """Counted up by whoever starts processes: of one app and instance number only the highest is called. 0: no."""


def load_run_settings(overrides: Mapping[str, object] | None = None) -> RunSettings:
    """From the environment, `overrides` (flags) on top. Raises `Invalid` naming every fault."""
    return load(RunSettings, prefix="DOUGONG_", ignore=(APP_PREFIX, DATABASE_PREFIX), overrides=overrides).value
