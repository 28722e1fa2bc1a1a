"""The schema of users's database, step by step."""
