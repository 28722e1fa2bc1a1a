-- Machines that keep their history here, by the number that stands for them in it. `key_type` says what `instance` is.
CREATE TABLE dougong_machines (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    key_type TEXT NOT NULL
);

-- What happened to instances: the audit trail, and the feed that others follow by `seq`. AUTOINCREMENT, so that no
-- position is given again after rows were forgotten.
CREATE TABLE dougong_transitions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    machine INTEGER NOT NULL,
    instance TEXT NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    event TEXT NOT NULL,
    target TEXT NOT NULL,
    event_id TEXT,
    at_us INTEGER NOT NULL,
    data TEXT
);

CREATE UNIQUE INDEX dougong_transitions_versions ON dougong_transitions (machine, instance, version);

CREATE UNIQUE INDEX dougong_transitions_event_ids ON dougong_transitions (machine, event_id, instance)
    WHERE event_id IS NOT NULL;
