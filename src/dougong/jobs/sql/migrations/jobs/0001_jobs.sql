-- Jobs, from the moment they are put until they are forgotten.
-- state: 1 waiting, 2 blocked, 3 running, 4 done, 5 dead, 6 cancelled.
-- place: where a job stands that may be taken now: its priority, then since when it has been due (priority * 2^52 + due_us).
-- delayed_us: when it is due, of a job that waits for its time. term: who runs it. Each is NULL otherwise, and so in no
-- index: what is over costs who takes nothing.
CREATE TABLE dougong_jobs (
    id INTEGER NOT NULL PRIMARY KEY,
    queue TEXT NOT NULL,
    lane TEXT NOT NULL,
    job TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    place INTEGER,
    delayed_us INTEGER,
    term INTEGER,
    last_term INTEGER,
    due_us INTEGER NOT NULL,
    enqueued_us INTEGER NOT NULL,
    started_us INTEGER,
    finished_us INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    stalls INTEGER NOT NULL DEFAULT 0,
    shard_index INTEGER NOT NULL,
    shard_total INTEGER NOT NULL,
    trace TEXT NOT NULL,
    schedule TEXT,
    progress_done INTEGER,
    progress_total INTEGER,
    progress_note TEXT,
    payload BLOB NOT NULL,
    result BLOB,
    error TEXT
);

CREATE INDEX dougong_jobs_place ON dougong_jobs (lane, place) WHERE place IS NOT NULL;

CREATE INDEX dougong_jobs_delayed ON dougong_jobs (delayed_us) WHERE delayed_us IS NOT NULL;

CREATE INDEX dougong_jobs_term ON dougong_jobs (term) WHERE term IS NOT NULL;

CREATE INDEX dougong_jobs_dead ON dougong_jobs (id) WHERE state = 5;

-- What only some jobs have: a key, a place in a line, a group, others that come after.
CREATE TABLE dougong_job_extras (
    id INTEGER NOT NULL PRIMARY KEY,
    job_key TEXT,
    key_mark BLOB,
    unique_mark BLOB,
    line BLOB,
    seq INTEGER,
    group_id INTEGER,
    then_jobs BLOB
);

CREATE INDEX dougong_job_extras_key ON dougong_job_extras (job_key) WHERE job_key IS NOT NULL;

-- Idempotency keys and unique marks (hashed, with the job's name): which job has them.
CREATE TABLE dougong_job_marks (
    mark BLOB NOT NULL PRIMARY KEY,
    job_id INTEGER NOT NULL
) WITHOUT ROWID;

-- Jobs that run one after the other: the first of a line may be taken, the others are blocked.
CREATE TABLE dougong_job_lines (
    line BLOB NOT NULL,
    seq INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    PRIMARY KEY (line, seq)
) WITHOUT ROWID;

-- Groups, by the job that comes once all of them is done: how many are still to be, and which they were.
CREATE TABLE dougong_job_groups (
    id INTEGER NOT NULL PRIMARY KEY,
    missing INTEGER NOT NULL,
    members TEXT NOT NULL
);

-- Of a job's name: how many may start in a second, and when the next may.
CREATE TABLE dougong_job_rates (
    job TEXT NOT NULL PRIMARY KEY,
    rate REAL NOT NULL,
    free_us INTEGER NOT NULL
) WITHOUT ROWID;

-- Running jobs that somebody asked to cancel.
CREATE TABLE dougong_job_cancels (
    job_id INTEGER NOT NULL PRIMARY KEY,
    term INTEGER NOT NULL
);

CREATE INDEX dougong_job_cancels_term ON dougong_job_cancels (term);

-- Workers' terms. closed: over, whatever the clock says, and nothing is held any more. ttl_us: how long it was made to
-- last, to tell an end that a clock has set that was moved back since.
CREATE TABLE dougong_job_workers (
    term INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    until_us INTEGER NOT NULL,
    ttl_us INTEGER NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0
);

-- Queues: what was set for them, and how many jobs are where. The numbers are changed in the transactions that move
-- the jobs, one row for any number of them, so that nobody ever counts. arrived only grows: who waits for jobs looks.
CREATE TABLE dougong_job_queues (
    queue TEXT NOT NULL PRIMARY KEY,
    concurrency INTEGER,
    paused INTEGER NOT NULL DEFAULT 0,
    configured INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    delayed_jobs INTEGER NOT NULL DEFAULT 0,
    blocked INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    arrived INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Numbers given out: of jobs, of terms.
CREATE TABLE dougong_job_numbers (
    name TEXT NOT NULL PRIMARY KEY,
    next_number INTEGER NOT NULL
) WITHOUT ROWID;
