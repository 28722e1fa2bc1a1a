-- One row per SKU. The books: available + frozen + sold = total, none of them negative; the CHECKs make a bug an error.
CREATE TABLE stock (
    sku TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    price_minor INTEGER NOT NULL CHECK (price_minor > 0),
    currency TEXT NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0),
    frozen INTEGER NOT NULL DEFAULT 0 CHECK (frozen >= 0),
    sold INTEGER NOT NULL DEFAULT 0 CHECK (sold >= 0),
    total INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    CHECK (available + frozen + sold = total)
) WITHOUT ROWID;
