"""The schema of orders's database, step by step."""
