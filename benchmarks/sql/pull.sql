-- Around the pulling of reports.

-- name: baseline_reports
-- Makes the baseline's table: the same columns, constraints and indexes.
CREATE TABLE baseline_reports (LIKE reports INCLUDING ALL);

-- name: settled_reports
-- Counts the reports and the messages that they made delivered.
SELECT
    (SELECT count(*) FROM reports WHERE NOT orphan) AS reports,
    (SELECT count(*) FROM messages WHERE status = 'delivered') AS delivered;

-- name: report_bytes
-- Tells the bytes of an average row of ours and of the baseline's, indexes left out.
SELECT
    (SELECT avg(pg_column_size(r.*)) FROM (SELECT * FROM reports LIMIT 1000) AS r)::double precision AS ours,
    (SELECT avg(pg_column_size(b.*)) FROM (SELECT * FROM baseline_reports LIMIT 1000) AS b)::double precision
        AS baseline;
