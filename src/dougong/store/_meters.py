"""What every engine's writer counts, under one name each."""

from __future__ import annotations

from dougong.telemetry import counter, gauge, histogram

__all__ = [
    "acquire_seconds",
    "commit_seconds",
    "connections_discarded",
    "connections_idle",
    "connections_in_use",
    "connections_waited_for",
    "faults",
    "leaks",
    "queued_units",
    "rerun_tokens",
    "reruns",
    "units_per_commit",
]

units_per_commit = histogram(
    "dougong_store_units_per_commit",
    "Units of work that shared one commit.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    labels=("store",),
)
commit_seconds = histogram(
    "dougong_store_commit_seconds",
    "Time of one commit: the sync and the way there and back.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    labels=("store",),
)
queued_units = gauge("dougong_store_queued_units", "Units waiting for the next commit.", labels=("store",))
faults = counter("dougong_store_faults_total", "Groups that could not be written, by reason.", labels=("store", "code"))
reruns = counter(
    "dougong_store_reruns_total", "Units run again, by what undid them: deadlocks, lost connections.", ("store", "code")
)
rerun_tokens = gauge("dougong_store_rerun_tokens", "Units that may be run again after deadlocks.", labels=("store",))

connections_in_use = gauge("dougong_store_connections_in_use", "Connections lent, or being opened.", labels=("store",))
connections_idle = gauge("dougong_store_connections_idle", "Connections that nobody needs now.", labels=("store",))
connections_waited_for = gauge("dougong_store_connections_waited_for", "Callers waiting for one.", labels=("store",))
acquire_seconds = histogram(
    "dougong_store_acquire_seconds",
    "Time until a connection was there, where that took any: it was waited for, checked or opened.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    labels=("store",),
)
connections_discarded = counter(
    "dougong_store_connections_discarded_total",
    "Connections closed: idle, old, dead (did not answer), broken (or cut short), dropped (by who had it), closed.",
    labels=("store", "why"),
)
leaks = counter("dougong_store_leaks_total", "Connections that were not given back in time.", labels=("store", "kind"))
