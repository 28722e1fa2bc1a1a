-- In each database of the user centre; a row belongs to the bucket `id % 128`, or `user_id % 128`. That an e-mail is one
-- in all of them is the business of a unique index over databases, not of this table.
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    created_us INTEGER NOT NULL
);

-- The books: available + frozen + spent = deposited, none negative; the CHECKs make a bug an error.
CREATE TABLE wallets (
    user_id INTEGER PRIMARY KEY,
    currency TEXT NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0),
    frozen INTEGER NOT NULL DEFAULT 0 CHECK (frozen >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    deposited INTEGER NOT NULL,
    CHECK (available + frozen + spent = deposited)
);
