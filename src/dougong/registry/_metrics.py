"""What discovery counts."""

from __future__ import annotations

from dougong.telemetry import counter, gauge

__all__ = [
    "compactions",
    "instances",
    "invalid",
    "probes",
    "restarts",
    "revision",
    "snapshot_age",
    "stale",
    "table_age",
]

instances = gauge(
    "dougong_registry_instances", "Instances in a routing table: known, called, suspect, dead.", ("service", "kind")
)
stale = gauge("dougong_registry_table_stale", "1 while the registry is silent or not believed.", ("service",))
table_age = gauge("dougong_registry_table_age_seconds", "Since the registry last confirmed the table.", ("service",))
snapshot_age = gauge(
    "dougong_registry_snapshot_age_seconds", "Age of the snapshot that a table stands on; 0 for none.", ("service",)
)
revision = gauge("dougong_registry_table_revision", "Revision that a routing table stands at.", ("service",))
restarts = counter("dougong_registry_watch_restarts_total", "Watches begun again after an error.", ("service",))
compactions = counter("dougong_registry_compactions_total", "Watches whose revision was compacted away.", ("service",))
invalid = counter("dougong_registry_invalid_entries_total", "Entries passed over as unreadable.", ("service",))
probes = counter("dougong_registry_probes_total", "Probes of doubted instances.", ("outcome",))
