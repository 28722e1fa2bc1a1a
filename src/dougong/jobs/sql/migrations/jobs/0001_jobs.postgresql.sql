-- Jobs, from the moment they are put until they are forgotten.
-- state: 1 waiting, 2 blocked, 3 running, 4 done, 5 dead, 6 cancelled.
-- place: where a job stands that may be taken now: its priority, then since when it has been due (priority * 2^52 + due_us).
-- delayed_us: when it is due, of a job that waits for its time. term: who runs it. Each is NULL otherwise, and so in no
-- index: what is over costs who takes nothing.
CREATE TABLE dougong_jobs (
    id BIGINT NOT NULL PRIMARY KEY,
    queue TEXT NOT NULL,
    lane TEXT NOT NULL,
    job TEXT NOT NULL,
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
    attempts INTEGER NOT NULL DEFAULT 0,
    stalls INTEGER NOT NULL DEFAULT 0,
    shard_index INTEGER NOT NULL,
    shard_total INTEGER NOT NULL,
    trace TEXT NOT NULL,
    schedule TEXT,
    progress_done BIGINT,
    progress_total BIGINT,
    progress_note TEXT,
    payload BYTEA NOT NULL,
    result BYTEA,
    error TEXT
) WITH (fillfactor = 70);

CREATE INDEX dougong_jobs_place ON dougong_jobs (lane, place, id) WHERE place IS NOT NULL;

CREATE INDEX dougong_jobs_delayed ON dougong_jobs (delayed_us) WHERE delayed_us IS NOT NULL;

CREATE INDEX dougong_jobs_term ON dougong_jobs (term) WHERE term IS NOT NULL;

CREATE INDEX dougong_jobs_dead ON dougong_jobs (id) WHERE state = 5;

-- What only some jobs have: a key, a place in a line, a group, others that come after.
CREATE TABLE dougong_job_extras (
    id BIGINT NOT NULL PRIMARY KEY,
    job_key TEXT,
    key_mark BYTEA,
    unique_mark BYTEA,
    line BYTEA,
    seq BIGINT,
    group_id BIGINT,
    then_jobs BYTEA
);

CREATE INDEX dougong_job_extras_key ON dougong_job_extras (job_key) WHERE job_key IS NOT NULL;

-- Idempotency keys and unique marks (hashed, with the job's name): which job has them.
CREATE TABLE dougong_job_marks (
    mark BYTEA NOT NULL PRIMARY KEY,
    job_id BIGINT NOT NULL
);

-- Jobs that run one after the other: the first of a line may be taken, the others are blocked.
CREATE TABLE dougong_job_lines (
    line BYTEA NOT NULL,
    seq BIGINT NOT NULL,
    job_id BIGINT NOT NULL,
    PRIMARY KEY (line, seq)
);

-- Groups, by the job that comes once all of them is done: how many are still to be, and which they were.
CREATE TABLE dougong_job_groups (
    id BIGINT NOT NULL PRIMARY KEY,
    missing BIGINT NOT NULL,
    members TEXT NOT NULL
);

-- Of a job's name: how many may start in a second, and when the next may.
CREATE TABLE dougong_job_rates (
    job TEXT NOT NULL PRIMARY KEY,
    rate DOUBLE PRECISION NOT NULL,
    free_us BIGINT NOT NULL
);

-- Running jobs that somebody asked to cancel.
CREATE TABLE dougong_job_cancels (
    job_id BIGINT NOT NULL PRIMARY KEY,
    term BIGINT NOT NULL
);

CREATE INDEX dougong_job_cancels_term ON dougong_job_cancels (term);

-- Workers' terms. closed: over, whatever the clock says, and nothing is held any more. ttl_us: how long it was made to
-- last, to tell an end that a clock has set that was moved back since.
CREATE TABLE dougong_job_workers (
    term BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    until_us BIGINT NOT NULL,
    ttl_us BIGINT NOT NULL,
    closed SMALLINT NOT NULL DEFAULT 0
);

-- Queues: what was set for them, and how many jobs are where. The numbers are changed in the transactions that move
-- the jobs, one row for any number of them, so that nobody ever counts. arrived only grows: who waits for jobs looks.
CREATE TABLE dougong_job_queues (
    queue TEXT NOT NULL PRIMARY KEY,
    concurrency INTEGER,
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
);

-- Numbers given out: of jobs, of terms.
CREATE TABLE dougong_job_numbers (
    name TEXT NOT NULL PRIMARY KEY,
    next_number BIGINT NOT NULL
);
