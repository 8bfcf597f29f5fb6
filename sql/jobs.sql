-- The table of jobs, for PostgreSQL from 13 on and CockroachDB from v20.2 on.
--
-- A job is written in the transaction of the work that leaves it behind: it exists exactly if the
-- other writes of that work do. Its row is deleted in the transaction in which it is done. A row
-- whose `live` is NULL has ended without being done, and tells why.
--
-- It holds data of requests: principals and payloads. Grant the service SELECT, INSERT, UPDATE and
-- DELETE, and others only SELECT.
CREATE TABLE IF NOT EXISTS interlock_jobs (
    id UUID PRIMARY KEY,
    kind TEXT NOT NULL,
    principal TEXT,                          -- whose permission is checked when the job runs
    payload JSONB NOT NULL,
    unique_key BYTEA,                        -- a hash of kind, principal and key
    run_at TIMESTAMPTZ NOT NULL,             -- when it is due; while it runs, the end of its lease
    leased BOOL NOT NULL DEFAULT false,      -- whether a worker has it
    runs INT4 NOT NULL DEFAULT 0,            -- how often it was claimed; the token of its lease
    runs_before INT4 NOT NULL DEFAULT 0,     -- of these, before it was enqueued again or retried by hand
    live BOOL DEFAULT true,                  -- NULL once it has ended
    ended TEXT,                              -- 'denied' or 'parked'
    reason TEXT,                             -- of the end, or of the last run that failed
    enqueued_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at TIMESTAMPTZ
);
-- NULLs are distinct: a job that has ended, or has no key, is in the way of no other one.
CREATE UNIQUE INDEX IF NOT EXISTS interlock_jobs_unique ON interlock_jobs (unique_key, live);
CREATE INDEX IF NOT EXISTS interlock_jobs_due ON interlock_jobs (kind, run_at) WHERE live;
CREATE INDEX IF NOT EXISTS interlock_jobs_ended ON interlock_jobs (ended_at) WHERE ended IS NOT NULL;
