-- Over many databases floors are kept per bucket, since they move with it. A scope has the same number everywhere.
-- Calls sent before floor_us belong to transactions that are over and forgotten; no row: nothing was forgotten yet.
CREATE TABLE dougong_fence_floors (
    scope BIGINT NOT NULL,
    bucket SMALLINT NOT NULL,
    participant VARCHAR(255) NOT NULL,
    initiator VARCHAR(255) NOT NULL,
    floor_us BIGINT NOT NULL,
    PRIMARY KEY (scope, bucket)
);
