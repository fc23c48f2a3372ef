-- Ten months of one account, for the billing audit: settled messages, a report for each, and each month's
-- statement.

-- name: fill_audit
-- Registers messages numbered $2 to $3 of account $1, one sent every $5 seconds from $4 on: 95 in 100
-- delivered, 3 failed, 2 expired; 40 to a reference, 10 to a vendor's id, in 30 number segments.
WITH numbered AS (
    SELECT
        i,
        (1000000000000 + i / 10)::text AS vendor_message_id,
        (130 + (i * 7919) % 30)::text || lpad(((i * 104729) % 100000000)::text, 8, '0') AS phone,
        $4::timestamptz + make_interval(secs => i * $5::double precision) AS sent_at,
        1 + ((i * 31) % 10 = 0)::integer AS segments,
        CASE
            WHEN (i * 17) % 100 < 95 THEN 'delivered'
            WHEN (i * 17) % 100 < 98 THEN 'failed'
            ELSE 'expired'
        END AS status
    FROM generate_series($2::bigint, $3::bigint) AS s (i)
),

named AS (
    SELECT
        n.*,
        substring(
            sha256(convert_to($1, 'UTF8') || '\x00' || convert_to(n.vendor_message_id, 'UTF8')) FOR 4
        ) AS shard,
        substring(
            sha256(
                convert_to($1, 'UTF8')
                || '\x00'
                || convert_to(n.vendor_message_id, 'UTF8')
                || '\x00'
                || convert_to(n.phone, 'UTF8')
            ) FOR 12
        ) AS own
    FROM numbered AS n
)

INSERT INTO messages (
    shard,
    id,
    account,
    vendor_message_id,
    phone,
    sent_at,
    registered_at,
    segments,
    segments_given,
    status,
    vendor_code,
    reason,
    reported_at,
    content,
    sign,
    reference,
    template_id
)
SELECT
    ('x' || encode(n.shard, 'hex'))::bit(32)::integer,
    encode(n.shard || n.own, 'hex')::uuid,
    $1,
    n.vendor_message_id,
    n.phone,
    n.sent_at,
    n.sent_at,
    n.segments,
    FALSE,
    n.status,
    CASE n.status WHEN 'delivered' THEN '1' WHEN 'failed' THEN '-' || (n.i % 7)::text END,
    CASE n.status WHEN 'failed' THEN '空号' END,
    CASE WHEN n.status <> 'expired' THEN n.sent_at + make_interval(secs => 1 + (n.i * 13) % 40) END,
    '您的验证码是' || (100000 + n.i % 900000)::text || '，5分钟内有效，请勿告诉他人。',
    '签名' || (n.i % 5)::text,
    'campaign-' || (n.i / 40)::text,
    (n.i % 12)::text
FROM named AS n
ORDER BY
    n.i / 1000,
    n.shard,
    n.own;

-- name: fill_audit_reports
-- Gives every final message of account $1 sent from $2 to $3 the report that settled it.
INSERT INTO reports (
    shard,
    message_id,
    fingerprint,
    account,
    vendor_message_id,
    phone,
    status,
    vendor_code,
    reported_at,
    received_at,
    source,
    digest,
    orphan
)
SELECT
    m.shard,
    m.id,
    substring(sha256(uuid_send(m.id)) FOR 16),
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.vendor_code,
    m.reported_at,
    m.reported_at + interval '1 second',
    'push',
    sha256(uuid_send(m.id)),
    FALSE
FROM messages AS m
WHERE m.account = $1 AND m.status IN ('delivered', 'failed') AND m.sent_at >= $2 AND m.sent_at < $3;

-- name: fill_audit_lines
-- Bills what of account $1 was delivered from $2 to $3, in statement $4, at 0.035.
INSERT INTO lines (shard, statement_id, line, message_id, vendor_message_id, phone, segments, amount)
SELECT
    m.shard,
    $4,
    1 + row_number() OVER (ORDER BY m.sent_at, m.id),
    m.id,
    m.vendor_message_id,
    m.phone,
    m.segments,
    m.segments * 0.035
FROM messages AS m
WHERE m.account = $1 AND m.status = 'delivered' AND m.sent_at >= $2 AND m.sent_at < $3;

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

-- name: vacuum_audit
-- Leaves the tables as autovacuum would have them.
VACUUM ANALYZE messages, reports, lines, statements;

-- name: some_messages
-- Picks $4 messages of account $1 sent from $2 to $3, spread evenly.
SELECT
    m.id,
    m.phone,
    m.reference,
    m.vendor_message_id
FROM generate_series(1, $4::integer) AS s (n)
CROSS JOIN LATERAL (
    SELECT
        c.id,
        c.phone,
        c.reference,
        c.vendor_message_id
    FROM messages AS c
    WHERE c.account = $1 AND c.sent_at >= $2::timestamptz + ($3::timestamptz - $2::timestamptz) * s.n / ($4 + 1)
    ORDER BY c.sent_at, c.id
    LIMIT 1
) AS m;

-- name: bare_roll_up
-- Reads the month's rows and adds them up, without days, prices and percentages.
SELECT
    status,
    count(*) AS messages,
    sum(segments) AS segments
FROM messages
WHERE account = $1 AND sent_at >= $2 AND sent_at < $3
GROUP BY status;

-- name: sizes
-- Tells how many bytes the ledger and its indexes take.
SELECT
    pg_table_size('messages') AS messages,
    pg_indexes_size('messages') AS indexes;
