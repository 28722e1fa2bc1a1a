CREATE TABLE users (
    id BIGINT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    created_us BIGINT NOT NULL
);

-- The books: available + frozen + spent = deposited, none negative; the CHECKs make a bug an error.
CREATE TABLE wallets (
    user_id BIGINT NOT NULL PRIMARY KEY,
    currency TEXT NOT NULL,
    available BIGINT NOT NULL CHECK (available >= 0),
    frozen BIGINT NOT NULL DEFAULT 0 CHECK (frozen >= 0),
    spent BIGINT NOT NULL DEFAULT 0 CHECK (spent >= 0),
    deposited BIGINT NOT NULL,
    CHECK (available + frozen + spent = deposited)
);
