-- How often an order was picked in vain: whoever had it put it down, and it was confirmed again.
ALTER TABLE shipments ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;

-- The feed is another one now, numbered anew.
DELETE FROM position;
