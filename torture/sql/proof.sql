-- What the torture asks of PostgreSQL: to prove that nothing is lost, doubled or left undone, and to break it.

-- name: recorded
-- Reads the records that have a round's tag in their bytes.
SELECT
    r.account,
    r.method,
    r.query,
    r.body,
    r.deliveries
FROM records AS r
WHERE position($1::bytea IN r.query || r.body) > 0;

-- name: record_count
-- Counts all records that were pushed.
SELECT count(*)
FROM records
WHERE source = 'push';

-- name: unsettled
-- Counts batches that are not settled.
SELECT count(*)
FROM batches
WHERE settled_at IS NULL;

-- name: messages
-- Reads the state of the messages of a round.
SELECT
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.reported_at,
    m.contradicted
FROM messages AS m
WHERE m.vendor_message_id LIKE $1 || '-%';

-- name: reports
-- Reads the reports of the messages of a round.
SELECT
    r.account,
    r.vendor_message_id,
    r.phone,
    r.status,
    r.reported_at,
    r.orphan
FROM reports AS r
WHERE r.vendor_message_id LIKE $1 || '-%';

-- name: quarantined
-- Reads what of a round is in quarantine.
SELECT
    r.account,
    r.method,
    r.query,
    r.body
FROM quarantine AS q
INNER JOIN records AS r ON q.digest = r.digest
WHERE position($1::bytea IN r.query || r.body) > 0;

-- name: left_orphans
-- Counts reports that are orphans though their message is registered.
SELECT count(*)
FROM reports AS r
INNER JOIN messages AS m ON r.shard = m.shard AND r.message_id = m.id
WHERE r.orphan;

-- name: job_runs
-- Says how often a job has run that runs every few seconds, by a count and by no clock.
SELECT coalesce(sum(j.runs), 0)
FROM jobs AS j
WHERE j.name = 'settle';

-- name: terminate_connections
-- Ends every other connection.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();
