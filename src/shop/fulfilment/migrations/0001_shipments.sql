CREATE TABLE shipments (
    order_id INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    due_us INTEGER, -- when it moves on; NULL once it is final
    updated_us INTEGER NOT NULL
);

CREATE INDEX shipments_due ON shipments (due_us) WHERE due_us IS NOT NULL;

-- How far the feed of orders has been read; moves in the same transaction as the shipments that came of it.
CREATE TABLE position (
    feed TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
);
