-- Orders move by a declared machine, which keeps its columns here and its history (and so the feed) in tables of its own.
-- `state` changes by the machine only.
ALTER TABLE orders ADD COLUMN state_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN definition INTEGER NOT NULL DEFAULT 1;
ALTER TABLE orders ADD COLUMN due_us INTEGER;
ALTER TABLE orders ADD COLUMN payment TEXT NOT NULL DEFAULT 'wallet';

CREATE INDEX orders_due ON orders (state, due_us) WHERE due_us IS NOT NULL;

-- What was under way is overdue: it is announced, picked or traced once more, and nobody has lost it.
UPDATE orders SET due_us = 1 WHERE state IN ('confirmed', 'picking', 'shipped', 'cancelling');

DROP TABLE order_events;

-- At most one undecided at a time for an order.
ALTER TABLE reversals ADD COLUMN undecided INTEGER NOT NULL DEFAULT 0;

CREATE UNIQUE INDEX reversals_undecided ON reversals (order_id) WHERE undecided = 1;

-- Payments at the provider, by a machine of their own. An order has one, asked for under its number.
CREATE TABLE payments (
    order_id INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    state_version INTEGER NOT NULL DEFAULT 0,
    definition INTEGER NOT NULL DEFAULT 1,
    due_us INTEGER,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    intent TEXT,
    pay_url TEXT
);

CREATE INDEX payments_due ON payments (state, due_us) WHERE due_us IS NOT NULL;
