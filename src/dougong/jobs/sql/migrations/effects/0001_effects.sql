-- Jobs whose effect is in this database. `source` tells queues apart whose jobs have the same numbers.
CREATE TABLE dougong_job_effects (
    source TEXT NOT NULL,
    job_id INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (source, job_id)
) WITHOUT ROWID;

CREATE INDEX dougong_job_effects_at ON dougong_job_effects (at_us);
