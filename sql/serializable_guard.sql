-- The guard for permission tables on PostgreSQL.
--
-- PostgreSQL tracks conflicts between SERIALIZABLE transactions only. A revocation that runs under
-- READ COMMITTED, the default of psql and of most tools, goes unseen by a request that is under way:
-- the request commits its write although the permission is gone. This guard rejects such a
-- revocation, and every other change of permissions below SERIALIZABLE.
--
-- Install the function once per database, as a migration or with
--
--     psql -f serializable_guard.sql
--
-- and attach it to every table that a policy reads, with both statements:
--
--     CREATE TRIGGER interlock_guard
--         BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
--         FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
--     ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard;
--
-- Without the second one, the guard does not run in sessions with
-- `session_replication_role = replica`, which `pg_restore --disable-triggers` and some tools set.
-- COPY, MERGE, ON CONFLICT, writes through a view and cascades of foreign keys run the guard.
--
-- These change permissions without it:
--
-- * A partition or an inheritance child that a statement names directly. Attach the guard to each
--   of them as well.
-- * Logical replication into this database. It applies changes under READ COMMITTED and runs no
--   trigger FOR EACH STATEMENT. Either make it SERIALIZABLE,
--
--       ALTER DATABASE app SET default_transaction_isolation = 'serializable';
--
--   or for the owner of the subscription only, with ALTER ROLE. Or stop it, by a second trigger on
--   each table:
--
--       CREATE TRIGGER interlock_guard_rows
--           BEFORE INSERT OR UPDATE OR DELETE ON grants
--           FOR EACH ROW EXECUTE FUNCTION interlock_guard();
--       ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard_rows;
--
-- * ALTER TABLE ... DISABLE TRIGGER. It waits for the requests that have read the table, and every
--   change after it is unguarded, until ENABLE ALWAYS TRIGGER.
-- * DDL, which runs no trigger. DROP TABLE, DETACH PARTITION and ALTER COLUMN ... TYPE ... USING
--   wait for the requests that have read the table. ATTACH PARTITION and INHERIT do not, and can
--   bring rows in that a request under way does not see. Begin them with
--
--       LOCK TABLE grants IN ACCESS EXCLUSIVE MODE;
--
-- A manual change of permissions begins with
--
--     BEGIN ISOLATION LEVEL SERIALIZABLE;
--
-- or makes it the default: `ALTER ROLE admin SET default_transaction_isolation = 'serializable'`.
--
-- CockroachDB does not need this file: there a SERIALIZABLE request fails at COMMIT when what it has
-- read was changed, whatever the isolation of the transaction that changed it.

CREATE OR REPLACE FUNCTION interlock_guard() RETURNS trigger
    LANGUAGE plpgsql
    -- A user's own current_setting() does not replace the real one.
    SET search_path = pg_catalog
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'serializable' THEN
        RAISE EXCEPTION '% on "%" rejected: permissions are changed in SERIALIZABLE transactions only, and this one is %',
                TG_OP, TG_TABLE_NAME, upper(current_setting('transaction_isolation'))
            USING
                -- invalid_transaction_state: a class that is not retried
                ERRCODE = '25000',
                HINT = 'Use BEGIN ISOLATION LEVEL SERIALIZABLE, or SET default_transaction_isolation = ''serializable''.';
    END IF;
    -- The row for a trigger FOR EACH ROW, which would skip the change at NULL.
    RETURN COALESCE(NEW, OLD);
END
$$;
