-- 200 reports' rows in one INSERT and one transaction, as a client sends them: all of them in the statement.
\set n :n + 200
\set id :first + :client_id * 100000000 + :n
INSERT INTO baseline_reports (
    shard,
    message_id,
    fingerprint,
    account,
    vendor_message_id,
    phone,
    status,
    vendor_code,
    reason,
    reported_at,
    received_at,
    source,
    digest,
    orphan
)
VALUES
{rows};
