"""Tables in a participant's database."""
