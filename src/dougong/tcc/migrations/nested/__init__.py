"""Tables in an initiator's database."""
