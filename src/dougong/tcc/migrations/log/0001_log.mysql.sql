-- Whose transactions these are (one row). Participants know them by this name, so it must not change.
CREATE TABLE dougong_initiator (
    one TINYINT NOT NULL PRIMARY KEY CHECK (one = 1),
    name VARCHAR(255) NOT NULL,
    floor_us BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which participants a transaction has: one row per combination, a small number in the log. (Too long for an index;
-- whoever adds one has looked before, and writers take turns.)
CREATE TABLE dougong_branch_sets (
    ref BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT,
    participants MEDIUMTEXT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- States: 1 trying, 2 confirming, 3 confirmed, 4 cancelling, 5 cancelled, 6 parked confirming, 7 parked cancelling.
-- due_us: when whoever finds the row may claim it; NULL when nothing is left to do, or when it is parked.
CREATE TABLE dougong_transactions (
    id BIGINT NOT NULL PRIMARY KEY,
    branches BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    digest BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    due_us BIGINT,
    parked_us BIGINT,
    attempts INT NOT NULL DEFAULT 0,
    owner TEXT,
    code TEXT,
    message TEXT,
    failure TEXT
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Neither index mentions the state, so that deciding touches neither.
CREATE INDEX dougong_transactions_due ON dougong_transactions (due_us);

CREATE INDEX dougong_transactions_parked ON dougong_transactions (parked_us);

CREATE TABLE dougong_transaction_pages (
    created_us BIGINT NOT NULL,
    first_id BIGINT NOT NULL,
    transaction_ids MEDIUMTEXT NOT NULL,
    PRIMARY KEY (created_us, first_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
