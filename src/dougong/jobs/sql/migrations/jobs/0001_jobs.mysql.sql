-- Jobs, from the moment they are put until they are forgotten.
-- state: 1 waiting, 2 blocked, 3 running, 4 done, 5 dead, 6 cancelled.
-- place: where a job stands that may be taken now: its priority, then since when it has been due (priority * 2^52 + due_us).
-- delayed_us: when it is due, of a job that waits for its time. term: who runs it. Each is NULL otherwise, and so in no
-- index: what is over costs who takes nothing.
CREATE TABLE dougong_jobs (
    id BIGINT NOT NULL PRIMARY KEY,
    queue VARCHAR(100) NOT NULL,
    lane VARCHAR(201) NOT NULL,
    job VARCHAR(100) NOT NULL,
    state SMALLINT NOT NULL,
    priority SMALLINT NOT NULL,
    place BIGINT,
    delayed_us BIGINT,
    term BIGINT,
    last_term BIGINT,
    due_us BIGINT NOT NULL,
    enqueued_us BIGINT NOT NULL,
    started_us BIGINT,
    finished_us BIGINT,
    attempts INT NOT NULL DEFAULT 0,
    stalls INT NOT NULL DEFAULT 0,
    shard_index INT NOT NULL,
    shard_total INT NOT NULL,
    trace VARCHAR(100) NOT NULL,
    schedule VARCHAR(200),
    progress_done BIGINT,
    progress_total BIGINT,
    progress_note VARCHAR(500),
    payload MEDIUMBLOB NOT NULL,
    result MEDIUMBLOB,
    error MEDIUMTEXT,
    dead SMALLINT AS (CASE WHEN state = 5 THEN 1 END) VIRTUAL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX dougong_jobs_place ON dougong_jobs (lane, place);

CREATE INDEX dougong_jobs_delayed ON dougong_jobs (delayed_us);

CREATE INDEX dougong_jobs_term ON dougong_jobs (term);

CREATE INDEX dougong_jobs_dead ON dougong_jobs (dead);

-- What only some jobs have: a key, a place in a line, a group, others that come after.
CREATE TABLE dougong_job_extras (
    id BIGINT NOT NULL PRIMARY KEY,
    job_key VARCHAR(200),
    key_mark BINARY(16),
    unique_mark BINARY(16),
    line BINARY(16),
    seq BIGINT,
    group_id BIGINT,
    then_jobs MEDIUMBLOB
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX dougong_job_extras_key ON dougong_job_extras (job_key);

-- Idempotency keys and unique marks (hashed, with the job's name): which job has them.
CREATE TABLE dougong_job_marks (
    mark BINARY(16) NOT NULL PRIMARY KEY,
    job_id BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Jobs that run one after the other: the first of a line may be taken, the others are blocked.
CREATE TABLE dougong_job_lines (
    line BINARY(16) NOT NULL,
    seq BIGINT NOT NULL,
    job_id BIGINT NOT NULL,
    PRIMARY KEY (line, seq)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Groups, by the job that comes once all of them is done: how many are still to be, and which they were.
CREATE TABLE dougong_job_groups (
    id BIGINT NOT NULL PRIMARY KEY,
    missing BIGINT NOT NULL,
    members MEDIUMTEXT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Of a job's name: how many may start in a second, and when the next may.
CREATE TABLE dougong_job_rates (
    job VARCHAR(100) NOT NULL PRIMARY KEY,
    rate DOUBLE NOT NULL,
    free_us BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Running jobs that somebody asked to cancel.
CREATE TABLE dougong_job_cancels (
    job_id BIGINT NOT NULL PRIMARY KEY,
    term BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX dougong_job_cancels_term ON dougong_job_cancels (term);

-- Workers' terms. closed: over, whatever the clock says, and nothing is held any more. ttl_us: how long it was made to
-- last, to tell an end that a clock has set that was moved back since.
CREATE TABLE dougong_job_workers (
    term BIGINT NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    until_us BIGINT NOT NULL,
    ttl_us BIGINT NOT NULL,
    closed SMALLINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Queues: what was set for them, and how many jobs are where. The numbers are changed in the transactions that move
-- the jobs, one row for any number of them, so that nobody ever counts. arrived only grows: who waits for jobs looks.
CREATE TABLE dougong_job_queues (
    queue VARCHAR(100) NOT NULL PRIMARY KEY,
    concurrency INT,
    paused SMALLINT NOT NULL DEFAULT 0,
    configured BIGINT NOT NULL DEFAULT 0,
    waiting BIGINT NOT NULL DEFAULT 0,
    delayed_jobs BIGINT NOT NULL DEFAULT 0,
    blocked BIGINT NOT NULL DEFAULT 0,
    running BIGINT NOT NULL DEFAULT 0,
    done BIGINT NOT NULL DEFAULT 0,
    dead BIGINT NOT NULL DEFAULT 0,
    cancelled BIGINT NOT NULL DEFAULT 0,
    arrived BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Numbers given out: of jobs, of terms.
CREATE TABLE dougong_job_numbers (
    name VARCHAR(200) NOT NULL PRIMARY KEY,
    next_number BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
