-- Around the pushing of callbacks.

-- name: baseline_records
-- Makes the baseline's table: the same columns, constraints and indexes.
CREATE TABLE baseline_records (LIKE records INCLUDING ALL);

-- name: recorded
-- Counts what is stored, and what became of it.
SELECT
    (SELECT count(*) FROM records) AS records,
    (SELECT count(*) FROM reports WHERE NOT orphan) AS reports,
    (SELECT count(*) FROM messages WHERE status = 'delivered') AS delivered,
    (SELECT count(*) FROM quarantine) AS quarantined,
    (SELECT count(*) FROM batches) AS batches;

-- name: unsettled
-- Counts the batches that wait to be settled, and for how many seconds the oldest does.
SELECT
    count(*) AS batches,
    coalesce(extract(EPOCH FROM clock_timestamp() - min(recorded_at)), 0)::double precision AS seconds
FROM batches
WHERE settled_at IS NULL;

-- name: one_record
-- Shows one callback as it is stored.
SELECT
    account,
    method,
    query,
    headers,
    body,
    peer
FROM records
LIMIT 1;

-- name: record_bytes
-- Tells the bytes of an average row of ours and of the baseline's, indexes left out.
SELECT
    (SELECT avg(pg_column_size(r.*)) FROM (SELECT * FROM records LIMIT 1000) AS r)::double precision AS ours,
    (SELECT avg(pg_column_size(b.*)) FROM (SELECT * FROM baseline_records LIMIT 1000) AS b)::double precision
        AS baseline;

-- name: wal_position
-- Tells how many bytes of WAL have ever been written.
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
