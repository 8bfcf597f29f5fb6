-- The guard for permission tables on PostgreSQL.
--
-- PostgreSQL tracks conflicts between SERIALIZABLE transactions only. A revocation that runs under
-- READ COMMITTED, the default of psql and of most tools, goes unseen by a request that is under way:
-- the request commits its write although the permission is gone. This guard refuses such a
-- revocation, and every other change of permissions below SERIALIZABLE.
--
-- Install the function once per database, as a migration or with
--
--     psql -f serializable_guard.sql
--
-- and attach it to every table that a policy reads:
--
--     CREATE TRIGGER interlock_guard
--         BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
--         FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
--
-- To a partition, too, if statements name it directly. A cascading foreign key is covered. Not
-- covered are what fires no trigger: DDL such as DROP TABLE, and sessions with
-- `session_replication_role = replica`.
--
-- Whoever changes permissions by hand begins with
--
--     BEGIN ISOLATION LEVEL SERIALIZABLE;
--
-- or makes it the default: `ALTER ROLE admin SET default_transaction_isolation = 'serializable'`.
--
-- CockroachDB does not need this file: there a SERIALIZABLE request fails at COMMIT when what it has
-- read was changed, whatever the isolation of the transaction that changed it.

CREATE OR REPLACE FUNCTION interlock_guard() RETURNS trigger
    LANGUAGE plpgsql
    -- Nobody's own current_setting() stands in for the real one.
    SET search_path = pg_catalog
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'serializable' THEN
        RAISE EXCEPTION '% on "%" refused: permissions are changed in SERIALIZABLE transactions only, and this one is %',
                TG_OP, TG_TABLE_NAME, upper(current_setting('transaction_isolation'))
            USING
                -- invalid_transaction_state: a class that nobody retries
                ERRCODE = '25000',
                HINT = 'Use BEGIN ISOLATION LEVEL SERIALIZABLE, or SET default_transaction_isolation = ''serializable''.';
    END IF;
    RETURN NULL;
END
$$;
