-- A month's ledger and its statement, with discrepancies of each kind.
-- Of each thousand messages, by their number: 1 and 9 failed, 4 was sent in another month, 8 has two final
-- reports that disagree, 9 has none. Of each thousand lines: 0 names a message that nobody sent, 2 bills
-- message 3 again, 5 bills two segments for one, 6 bills at another price.

-- name: decide_messages
-- Gives every message of account $1 its state, as the fold of its reports would.
UPDATE messages
SET
    status = CASE
        WHEN i % 1000 = 9 THEN 'expired'
        WHEN i % 1000 IN (1, 2) THEN 'failed'
        ELSE 'delivered'
    END,
    vendor_code = CASE WHEN i % 1000 <> 9 THEN '1' END,
    reported_at = CASE WHEN i % 1000 <> 9 THEN sent_at + interval '3 seconds' END,
    contradicted = i % 1000 = 8,
    sent_at = CASE WHEN i % 1000 = 4 THEN sent_at - interval '1 month' ELSE sent_at END
FROM (
    SELECT
        m.shard AS message_shard,
        m.id AS message_id,
        m.vendor_message_id::bigint - 1000000000000 AS i
    FROM messages AS m
    WHERE m.account = $1
) AS numbered
WHERE shard = message_shard AND id = message_id;

-- name: fill_lines
-- Bills every message of account $1 in statement $2, one line each.
INSERT INTO lines (
    shard,
    statement_id,
    line,
    message_id,
    vendor_message_id,
    phone,
    segments,
    amount,
    sent_at,
    status
)
SELECT
    CASE WHEN i % 1000 = 0 THEN -m.shard - 1 ELSE m.shard END,
    $2,
    i + 2,
    CASE WHEN i % 1000 = 0 THEN gen_random_uuid() ELSE m.id END,
    CASE WHEN i % 1000 = 0 THEN 'nobody-' || i ELSE m.vendor_message_id END,
    m.phone,
    CASE WHEN i % 1000 = 5 THEN 2 ELSE 1 END,
    CASE i % 1000 WHEN 5 THEN 0.070 WHEN 6 THEN 0.040 ELSE 0.035 END,
    m.sent_at,
    '成功'
FROM (
    SELECT
        m.vendor_message_id::bigint - 1000000000000 AS number,
        m.shard,
        m.id,
        m.vendor_message_id,
        m.phone,
        m.sent_at
    FROM messages AS m
    WHERE m.account = $1
) AS m
CROSS JOIN LATERAL (
    SELECT number AS i WHERE number % 1000 <> 2
    UNION ALL
    SELECT number - 1 AS i WHERE number % 1000 = 3
) AS billed
ORDER BY i;

-- name: add_statement_of_lines
-- Makes statement $1 of account $2 and days $3 to $4 of the lines that are there.
INSERT INTO statements (
    id,
    account,
    first_day,
    last_day,
    version,
    file_digest,
    file_name,
    format,
    lines,
    segments,
    amount,
    imported_at
)
SELECT
    $1,
    $2,
    $3,
    $4,
    1,
    '\x00',
    'generated.csv',
    'generic',
    count(*),
    sum(l.segments),
    sum(l.amount),
    now()
FROM lines AS l
WHERE l.statement_id = $1;

-- name: vacuum_ledger
-- Leaves the tables as autovacuum would have them after a month.
VACUUM ANALYZE messages, lines;

-- name: full_join
-- Matches the period's messages and the statement's lines, and does nothing with what it finds.
SELECT
    count(*) AS pairs,
    count(m.id) AS messages,
    count(l.line) AS lines
FROM (
    SELECT
        shard,
        id
    FROM messages
    WHERE account = $1 AND sent_at >= $2 AND sent_at < $3
) AS m
FULL JOIN (
    SELECT
        shard,
        message_id,
        line
    FROM lines
    WHERE statement_id = $4
) AS l
    ON m.shard = l.shard AND m.id = l.message_id;
