-- The table of receipts, for PostgreSQL from 13 on and CockroachDB from v20.2 on.
--
-- A receipt is written in the transaction of its request: it exists exactly if the request's other
-- writes do. It holds data of requests: principals, paths, notes, and for idempotent requests the
-- response. Grant the service SELECT, INSERT, UPDATE and DELETE, and others only SELECT.
--
-- Expired receipts are removed by `Interlock::purge_receipts`. CockroachDB from v22.2 on can do
-- that itself, and then needs no index:
--
--     ALTER TABLE interlock_receipts SET (ttl_expiration_expression = 'expires_at');
--     DROP INDEX interlock_receipts_expires_at;
--
-- https://www.cockroachlabs.com/docs/stable/row-level-ttl
CREATE TABLE IF NOT EXISTS interlock_receipts (
    key BYTEA PRIMARY KEY,              -- of the work: a hash of principal, method, path and key, or random
    attempt BYTEA NOT NULL,             -- of the attempt that has committed
    status INT4 NOT NULL,               -- of the response; 1 for transact, 0 if void: nothing was kept
    fingerprint BYTEA,                  -- of the request, if it has an idempotency key
    principal TEXT,
    policies TEXT,                      -- or the name of the transaction
    method TEXT,
    path TEXT,
    attempts INT4,
    detail JSONB,                       -- the notes
    headers BYTEA,                      -- of the response, if the request has an idempotency key
    body BYTEA,                         -- NULL if it was too long to be kept
    at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX IF NOT EXISTS interlock_receipts_expires_at ON interlock_receipts (expires_at);
