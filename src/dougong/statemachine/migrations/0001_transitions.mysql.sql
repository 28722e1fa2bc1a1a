-- Machines that keep their history here, by the number that stands for them in it. `key_type` says what `instance` is.
CREATE TABLE dougong_machines (
    number INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(64) NOT NULL UNIQUE,
    key_type VARCHAR(8) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What happened to instances: the audit trail, and the feed that others follow by `seq`. No position is
-- given again after rows were forgotten.
CREATE TABLE dougong_transitions (
    seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    machine INT NOT NULL,
    instance VARCHAR(191) NOT NULL,
    version BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    event VARCHAR(64) NOT NULL,
    target VARCHAR(64) NOT NULL,
    event_id VARCHAR(128),
    at_us BIGINT NOT NULL,
    data TEXT
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE UNIQUE INDEX dougong_transitions_versions ON dougong_transitions (machine, instance, version);

CREATE UNIQUE INDEX dougong_transitions_event_ids ON dougong_transitions (machine, event_id, instance);
