-- A month's ledger and its statement, with discrepancies of each kind.
-- Of each thousand messages, by their number: 1 and 9 failed, 4 was sent in another month, 8 has two final
-- reports that disagree, 9 has none. Of each thousand lines: 0 names a message that nobody sent, 2 bills
-- message 3 again, 5 bills two segments for one, 6 bills at another price.

-- name: fill_month
-- Registers messages numbered $2 to $3 of account $1, one sent every $5 seconds from $4 on, each with the state
-- that the fold of its reports would give it. They lie as calls of a thousand leave them, each call in the
-- order of its keys.
WITH numbered AS (
    SELECT
        s.i,
        (1000000000000 + s.i)::text AS vendor_message_id,
        (13800000000 + s.i % 100000000)::text AS phone,
        $4::timestamptz
        + make_interval(secs => s.i * $5::double precision)
        - CASE WHEN s.i % 1000 = 4 THEN interval '1 month' ELSE interval '0' END AS sent_at
    FROM generate_series($2::bigint, $3::bigint) AS s (i)
),

named AS (
    SELECT
        n.i,
        n.vendor_message_id,
        n.phone,
        n.sent_at,
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
    reported_at,
    contradicted,
    content,
    sign
)
SELECT
    ('x' || encode(n.shard, 'hex'))::bit(32)::integer,
    encode(n.shard || n.own, 'hex')::uuid,
    $1,
    n.vendor_message_id,
    n.phone,
    n.sent_at,
    n.sent_at,
    1,
    FALSE,
    CASE
        WHEN n.i % 1000 = 9 THEN 'expired'
        WHEN n.i % 1000 IN (1, 2) THEN 'failed'
        ELSE 'delivered'
    END,
    CASE WHEN n.i % 1000 <> 9 THEN '1' END,
    CASE WHEN n.i % 1000 <> 9 THEN n.sent_at + interval '3 seconds' END,
    n.i % 1000 = 8,
    '您的验证码是123456，5分钟内有效，请勿告诉他人。',
    '顶想云'
FROM named AS n
ORDER BY
    n.i / 1000,
    n.shard,
    n.own;

-- name: fill_month_reports
-- Gives every final message of account $1 the report that settled it, and the contradicted ones another.
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
    substring(sha256(uuid_send(m.id) || convert_to(s.status, 'UTF8')) FOR 16),
    m.account,
    m.vendor_message_id,
    m.phone,
    s.status,
    m.vendor_code,
    m.reported_at,
    m.reported_at + interval '1 second',
    'push',
    sha256(uuid_send(m.id) || convert_to(s.status, 'UTF8')),
    FALSE
FROM messages AS m
CROSS JOIN LATERAL (
    SELECT m.status
    UNION ALL
    SELECT 'failed'
    WHERE m.contradicted
) AS s
WHERE m.account = $1 AND m.status IN ('delivered', 'failed');

-- name: month_messages
-- Reads of the ledger what a join with a statement needs.
SELECT
    vendor_message_id,
    phone,
    sent_at,
    status,
    segments
FROM messages;

-- name: month_lines
-- Bills every message, one line each, as a vendor's console exports it.
SELECT
    CASE WHEN b.i % 1000 = 0 THEN 'nobody-' || b.i ELSE (1000000000000 + b.i)::text END AS "任务ID",
    m.phone AS "手机号",
    CASE WHEN b.i % 1000 = 5 THEN 2 ELSE 1 END AS "计费条数",
    CASE b.i % 1000 WHEN 5 THEN 0.070 WHEN 6 THEN 0.040 ELSE 0.035 END AS "金额(元)",
    to_char(m.sent_at AT TIME ZONE 'Asia/Shanghai', 'YYYY-MM-DD HH24:MI:SS') AS "发送时间",
    '成功' AS "状态"
FROM (
    SELECT
        vendor_message_id::bigint - 1000000000000 AS number,
        phone,
        sent_at
    FROM messages
) AS m
CROSS JOIN LATERAL (
    SELECT number AS i WHERE number % 1000 <> 2
    UNION ALL
    SELECT number AS i WHERE number % 1000 = 3
) AS b;

-- name: vacuum_month
-- Leaves the tables as autovacuum would have them after a month.
VACUUM ANALYZE messages, lines, reports;

-- name: spilled
-- Tells how many bytes of temporary files the database has written.
SELECT temp_bytes
FROM pg_stat_database
WHERE datname = current_database();
