CREATE TABLE users (
    id BIGINT NOT NULL PRIMARY KEY,
    email VARCHAR(254) NOT NULL,
    name VARCHAR(100) NOT NULL,
    password_hash VARCHAR(255) NOT NULL,
    role VARCHAR(50) NOT NULL,
    created_us BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The books: available + frozen + spent = deposited, none negative; the CHECKs make a bug an error.
CREATE TABLE wallets (
    user_id BIGINT NOT NULL PRIMARY KEY,
    currency VARCHAR(3) NOT NULL,
    available BIGINT NOT NULL CHECK (available >= 0),
    frozen BIGINT NOT NULL DEFAULT 0 CHECK (frozen >= 0),
    spent BIGINT NOT NULL DEFAULT 0 CHECK (spent >= 0),
    deposited BIGINT NOT NULL,
    CHECK (available + frozen + spent = deposited)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
