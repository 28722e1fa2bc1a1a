CREATE TABLE sessions (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    family_hash TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    past_hash TEXT NOT NULL,
    salt TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    used_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    access_until_us BIGINT NOT NULL,
    ended_us BIGINT NOT NULL,
    ended_by TEXT NOT NULL,
    version BIGINT NOT NULL
);

CREATE INDEX sessions_of_user ON sessions (user_id, ended_us);
CREATE INDEX sessions_ended ON sessions (ended_us, id);
CREATE INDEX sessions_expired ON sessions (expires_us);
