-- One scope per (participant, initiator): a small number in the fence's key instead of two names in every row.
-- Calls sent before floor_us belong to transactions that are over and forgotten.
CREATE TABLE dougong_fence_scopes (
    scope BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT,
    participant VARCHAR(255) NOT NULL,
    initiator VARCHAR(255) NOT NULL,
    floor_us BIGINT NOT NULL DEFAULT 0,
    UNIQUE (participant, initiator)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What was answered to each branch. States: 1 tried, 2 confirmed, 3 cancelled, 4 suspended, 5 refused.
CREATE TABLE dougong_fence (
    scope BIGINT NOT NULL,
    transaction_id BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    payload MEDIUMBLOB,
    code TEXT,
    message TEXT,
    PRIMARY KEY (scope, transaction_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which rows a call wrote, so that they are found again by age without an index on every row.
CREATE TABLE dougong_fence_pages (
    scope BIGINT NOT NULL,
    sent_us BIGINT NOT NULL,
    first_id BIGINT NOT NULL,
    transaction_ids MEDIUMTEXT NOT NULL,
    PRIMARY KEY (scope, sent_us, first_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
