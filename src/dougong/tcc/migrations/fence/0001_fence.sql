-- One scope per (participant, initiator): a small number in the fence's key instead of two names in every row.
-- Calls sent before floor_us belong to transactions that are over and forgotten.
CREATE TABLE dougong_fence_scopes (
    scope INTEGER PRIMARY KEY,
    participant TEXT NOT NULL,
    initiator TEXT NOT NULL,
    floor_us INTEGER NOT NULL DEFAULT 0,
    UNIQUE (participant, initiator)
);

-- What was answered to each branch. States: 1 tried, 2 confirmed, 3 cancelled, 4 suspended, 5 refused.
CREATE TABLE dougong_fence (
    scope INTEGER NOT NULL,
    transaction_id INTEGER NOT NULL,
    state INTEGER NOT NULL,
    payload BLOB,
    code TEXT,
    message TEXT,
    PRIMARY KEY (scope, transaction_id)
) WITHOUT ROWID;

-- Which rows a call wrote, so that they are found again by age without an index on every row.
CREATE TABLE dougong_fence_pages (
    scope INTEGER NOT NULL,
    sent_us INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    transaction_ids TEXT NOT NULL,
    PRIMARY KEY (scope, sent_us, first_id)
) WITHOUT ROWID;
