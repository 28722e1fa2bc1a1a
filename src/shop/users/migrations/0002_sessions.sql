-- Logins. A row belongs to the bucket `id % 128`, which is that of its user. Hashes only: who reads the table can log in
-- nowhere. An ended session stays until its access tokens have expired, and is found by `ended_us`.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL,
    family_hash TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    past_hash TEXT NOT NULL,
    salt TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    access_until_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    ended_by TEXT NOT NULL,
    version INTEGER NOT NULL
);

CREATE INDEX sessions_of_user ON sessions (user_id, ended_us);
CREATE INDEX sessions_ended ON sessions (ended_us, id);
CREATE INDEX sessions_expired ON sessions (expires_us);
