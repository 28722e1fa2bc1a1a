-- `id` is even, and also the transaction that takes stock and money for the order.
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    total_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    lines TEXT NOT NULL,
    idempotency_key TEXT,
    refusal_code TEXT,
    refusal TEXT,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);

CREATE INDEX orders_by_user ON orders (user_id, id);

CREATE UNIQUE INDEX orders_by_key ON orders (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- What became of orders, in commit order, for whoever follows; written in the same transaction as the change itself.
CREATE TABLE order_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id INTEGER NOT NULL,
    state TEXT NOT NULL
);

-- Transactions that give an order's stock and money back; their ids are odd. One that was refused is followed by another.
CREATE TABLE reversals (
    id INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL
);
