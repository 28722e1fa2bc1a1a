"""What a process needs to know to run an app: where its data is, where the registry is, where to listen."""

from __future__ import annotations

from collections.abc import Mapping

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
    """`local:///path`, `memory://`; empty for `registry.db` in the data directory."""
    host: str = "127.0.0.1"
    """Address to serve gRPC on. Others than loopback need tokens on every call, which they have."""
    port: int = 0
    """gRPC port; 0 takes a free one, which the registry tells."""
    http: str = "127.0.0.1:0"
    """`host:port` for apps with a front; also serves health and metrics for every app."""
    instance: int = 0
    """Number of this instance among its app's."""
    lease_s: float = 30.0
    drain_s: float = 10.0
    """How long a stopping process may take to finish what it accepted."""
    log_json: bool = False
    log_level: str = "info"
    trace_ratio: float = 1.0
    """Share of traces whose spans are recorded; errors always are."""
    supervisor: int = 0
    """Process that this one must not outlive; 0 for none."""
    system: str = ""
    """System file whose `[apps.NAME.settings]` apply; empty for none."""


def load_run_settings(overrides: Mapping[str, object] | None = None) -> RunSettings:
    """From the environment, `overrides` (flags) on top. Raises `Invalid` naming every fault."""
    return load(RunSettings, prefix="DOUGONG_", ignore=(APP_PREFIX, DATABASE_PREFIX), overrides=overrides).value
