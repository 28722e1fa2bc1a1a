"""The schema of inventory's database, step by step."""
