"""The scheduler's tables: what is scheduled, what fired, and who may fire."""

from __future__ import annotations

from dougong.store import Migration

__all__ = ["SCHEMA"]

# `look_us` is when a schedule is to be looked at: its next fire, or later when that failed; none when it is paused,
# disabled or over. So an idle tick is one step in one index. `high_us` is the latest fire that has an occurrence.
# `busy` repeats the schedule's name while jobs of an occurrence may be unfinished, where the overlap policy asks.
_TABLES = """
CREATE TABLE dougong_job_schedules (
    name NAME NOT NULL PRIMARY KEY,
    declared INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    paused_us BIGINT,
    definition BODY NOT NULL,
    revision BIGINT NOT NULL,
    next_fire_us BIGINT,
    look_us BIGINT,
    last_fire_us BIGINT,
    high_us BIGINT NOT NULL,
    fault NOTE NOT NULL,
    changed_us BIGINT NOT NULL
);
CREATE INDEX dougong_job_schedules_look ON dougong_job_schedules (look_us);
CREATE TABLE dougong_job_occurrences (
    schedule NAME NOT NULL,
    fire_us BIGINT NOT NULL,
    since_us BIGINT NOT NULL,
    fires INTEGER NOT NULL,
    cause VARCHAR(16) NOT NULL,
    decision VARCHAR(16) NOT NULL,
    jobs BODY NOT NULL,
    busy NAME,
    decided_us BIGINT NOT NULL,
    term BIGINT NOT NULL,
    PRIMARY KEY (schedule, fire_us)
);
CREATE INDEX dougong_job_occurrences_busy ON dougong_job_occurrences (busy);
CREATE INDEX dougong_job_occurrences_decided ON dougong_job_occurrences (decided_us);
CREATE TABLE dougong_job_leases (
    name NAME NOT NULL PRIMARY KEY,
    term BIGINT NOT NULL,
    holder NOTE NOT NULL,
    until_us BIGINT NOT NULL,
    ttl_us BIGINT NOT NULL,
    seen_us BIGINT NOT NULL
);
"""


def _for(name: str, body: str, note: str) -> str:
    return _TABLES.replace(" NAME", f" {name}").replace(" BODY", f" {body}").replace(" NOTE", f" {note}")


_BINARY = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
SCHEMA = [
    Migration(
        1,
        "schedules",
        _for("VARCHAR(100)", "TEXT", "VARCHAR(500)"),
        {"mysql": _for(f"VARCHAR(100) {_BINARY}", f"MEDIUMTEXT {_BINARY}", f"VARCHAR(500) {_BINARY}")},
    )
]
