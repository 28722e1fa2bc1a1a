CREATE TABLE sessions (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    family_hash VARCHAR(64) NOT NULL,
    token_hash VARCHAR(64) NOT NULL,
    past_hash VARCHAR(64) NOT NULL,
    salt VARCHAR(64) NOT NULL,
    created_us BIGINT NOT NULL,
    used_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    access_until_us BIGINT NOT NULL,
    ended_us BIGINT NOT NULL,
    ended_by VARCHAR(20) NOT NULL,
    version BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX sessions_of_user ON sessions (user_id, ended_us);
CREATE INDEX sessions_ended ON sessions (ended_us, id);
CREATE INDEX sessions_expired ON sessions (expires_us);
