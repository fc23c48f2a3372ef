-- What every benchmark asks of its database.

-- name: checkpoint
-- Writes out everything dirty.
CHECKPOINT;

-- name: setting
-- Tells one setting of the server.
SELECT current_setting($1);

-- name: version
-- Tells the server's version.
SELECT current_setting('server_version');

-- name: binaries
-- Tells the folder of the running server's programs.
SELECT setting
FROM pg_config()
WHERE name = 'BINDIR';

-- name: server_process
-- Tells the process whose children the server's processes are.
SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)::integer;

-- name: analyze_messages
-- Tells the planner what the ledger is like.
ANALYZE messages, awaiting;

-- name: fill_messages
-- Registers messages numbered $2 to $3 of account $1, $4 of them to a vendor's id, one sent every $6
-- seconds from $5 on, with the keys that runtime.identity gives them. They lie as calls of a thousand
-- leave them, each call in the order of its keys, and are still without a report.
WITH numbered AS (
    SELECT
        i,
        (1000000000000 + i / $4)::text AS vendor_message_id,
        (13800000000 + i % 100000000)::text AS phone,
        $5::timestamptz + make_interval(secs => i * $6::double precision) AS sent_at
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
),

registered AS (
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
        'submitted',
        '您的验证码是123456，5分钟内有效，请勿告诉他人。',
        '顶想云'
    FROM named AS n
    ORDER BY
        n.i / 1000,
        n.shard,
        n.own
    RETURNING shard, id, account, sent_at
)

INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
SELECT
    r.shard,
    r.id,
    r.account,
    r.sent_at,
    now() + interval '1 day'
FROM registered AS r;
