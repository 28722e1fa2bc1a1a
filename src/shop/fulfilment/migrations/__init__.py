"""The schema of fulfilment's database, step by step."""
