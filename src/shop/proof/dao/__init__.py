"""What a row costs: our DAO beside the bare driver, a DAO that reflects at each call, and three ORMs.

Every contestant reads the same rows of the same table, by key and by page, on the same engine, in one process.
"""
