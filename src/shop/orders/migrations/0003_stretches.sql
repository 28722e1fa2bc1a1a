-- Customers' orders by stretches of ids. In one index by customer each new order would touch a page of its own, somewhere
-- in all of it: the more orders there are, the more pages would each commit write. Here new orders touch the newest
-- stretch alone, whose pages they share. Reading pays for it with one search per stretch.
DROP INDEX orders_by_user;

CREATE INDEX orders_by_stretch ON orders (id >> 16, user_id, id);
