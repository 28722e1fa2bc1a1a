"""Tables of the SQL engine, and those of effects."""
