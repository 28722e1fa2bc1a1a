-- When a hold's time is over; NULL for what is not held. A held transaction has no due_us: nobody looks at it until then.
ALTER TABLE dougong_transactions ADD COLUMN expires_us BIGINT;

CREATE INDEX dougong_transactions_expires ON dougong_transactions (expires_us);
