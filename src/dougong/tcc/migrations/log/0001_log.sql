-- Whose transactions these are (one row). Participants know them by this name, so it must not change.
CREATE TABLE dougong_initiator (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL,
    floor_us INTEGER NOT NULL DEFAULT 0
);

-- Which participants a transaction has: one row per combination, a small number in the log.
CREATE TABLE dougong_branch_sets (
    ref INTEGER PRIMARY KEY,
    participants TEXT NOT NULL UNIQUE
);

-- States: 1 trying, 2 confirming, 3 confirmed, 4 cancelling, 5 cancelled, 6 parked confirming, 7 parked cancelling.
-- due_us: when whoever finds the row may claim it; NULL when nothing is left to do, or when it is parked.
CREATE TABLE dougong_transactions (
    id INTEGER PRIMARY KEY,
    branches INTEGER NOT NULL,
    state INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    due_us INTEGER,
    parked_us INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    code TEXT,
    message TEXT,
    failure TEXT
);

-- Neither index mentions the state, so that deciding touches neither.
CREATE INDEX dougong_transactions_due ON dougong_transactions (due_us) WHERE due_us IS NOT NULL;

CREATE INDEX dougong_transactions_parked ON dougong_transactions (parked_us) WHERE parked_us IS NOT NULL;

CREATE TABLE dougong_transaction_pages (
    created_us INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    transaction_ids TEXT NOT NULL,
    PRIMARY KEY (created_us, first_id)
) WITHOUT ROWID;
