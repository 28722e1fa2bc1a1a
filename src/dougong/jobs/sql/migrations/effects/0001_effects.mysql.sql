-- Jobs whose effect is in this database. `source` tells queues apart whose jobs have the same numbers.
CREATE TABLE dougong_job_effects (
    source VARCHAR(100) NOT NULL,
    job_id BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (source, job_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX dougong_job_effects_at ON dougong_job_effects (at_us);
