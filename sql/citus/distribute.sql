-- Spreads the large tables over the servers of a Citus cluster. Run it once on the coordinator, after
-- `huizhi migrate` and before anything else runs: docs/scale.md. In no transaction: what it makes on the
-- other servers for one table, the next one needs there.
--
-- What is about one message stands in one place, by its shard; what is about the bytes of one record, by
-- their digest. All other tables stay on the coordinator: they have few rows, or no key in common.
CREATE EXTENSION IF NOT EXISTS citus;

-- Days are told by UTC wherever no zone is named, and Citus tells the other servers of no session's zone.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET timezone TO ''UTC''', current_database());
END $$;

SELECT create_distributed_table('messages', 'shard', colocate_with => 'none');
SELECT create_distributed_table('awaiting', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('reports', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('superseded_reports', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('suspects', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('suspect_decisions', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('lines', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('discrepancies', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('run_reports', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('outcomes', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('adjustments', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('cases', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('case_changes', 'shard', colocate_with => 'messages');
SELECT create_distributed_table('credit_allocations', 'shard', colocate_with => 'messages');
-- Its shard is that of the handset's number: next to nothing is asked of it and of messages together.
SELECT create_distributed_table('inbound', 'shard', colocate_with => 'messages');

SELECT create_distributed_table('records', 'digest', colocate_with => 'none');
SELECT create_distributed_table('quarantine', 'digest', colocate_with => 'records');
SELECT create_distributed_table('late_records', 'digest', colocate_with => 'records');
SELECT create_distributed_table('chain_entries', 'key', colocate_with => 'records');

-- What the views of the schema "audit" look up and call, everywhere.
SELECT create_reference_table('audit.prefixes');
SELECT create_distributed_function('audit.masked(text)');
SELECT create_distributed_function('audit.redacted(text)');
SELECT create_distributed_function('audit.charged(text, text)');

-- On a cluster a number that a table gives itself is taken by who inserts, and not by the table.
DO $$
DECLARE
    taken text;
BEGIN
    FOREACH taken IN ARRAY ARRAY['huizhi_receiver', 'huizhi_reconciler'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = taken) THEN
            EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO %I', taken);
        END IF;
    END LOOP;
END $$;
