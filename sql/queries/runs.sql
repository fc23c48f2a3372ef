-- Versions of a period's runs: which is the newest, which closed it, and what later ones change.

-- name: take_version
-- Gives a run its version, as the first statement of its transaction: runs of a period wait for each other,
-- and whoever waited must begin again.
INSERT INTO periods (account, first_day, last_day, versions)
VALUES ($1, $2, $3, 1)
ON CONFLICT (account, first_day, last_day) DO UPDATE SET versions = periods.versions + 1
RETURNING versions, newest_run, closed_run, closed_at, closed_by;

-- name: take_outcomes
-- Takes what the run came to for each message that it looked at, and for each line of another period's or of none.
WITH billed AS (
    SELECT
        l.shard,
        l.key,
        min(l.vendor_message_id COLLATE "C") AS vendor_message_id,
        min(l.phone COLLATE "C") AS phone,
        min(l.status COLLATE "C") AS status,
        count(*) AS lines,
        sum(l.billed_segments) AS segments,
        sum(l.amount) AS amount
    FROM run_lines AS l
    GROUP BY l.shard, l.key
)

INSERT INTO run_outcomes (
    shard,
    key,
    vendor_message_id,
    phone,
    status,
    sent_segments,
    owed_segments,
    owed_amount,
    lines,
    billed_segments,
    billed_amount
)
SELECT
    coalesce(m.shard, b.shard),
    coalesce(m.id, b.key),
    coalesce(m.vendor_message_id, b.vendor_message_id),
    coalesce(m.phone, b.phone),
    coalesce(m.status, b.status),
    m.segments,
    CASE WHEN m.charged THEN m.segments END,
    CASE WHEN m.charged THEN m.segments * m.price END,
    coalesce(b.lines, 0),
    coalesce(b.segments, 0),
    coalesce(b.amount, 0)
FROM run_messages AS m
FULL JOIN billed AS b ON m.shard = b.shard AND m.id = b.key;

-- name: keep_outcomes
-- Keeps what a run came to, so that the period can be closed with it.
INSERT INTO outcomes (
    run_id,
    shard,
    key,
    vendor_message_id,
    phone,
    status,
    sent_segments,
    owed_segments,
    owed_amount,
    lines,
    billed_segments,
    billed_amount
)
SELECT
    $1,
    o.shard,
    o.key,
    o.vendor_message_id,
    o.phone,
    o.status,
    o.sent_segments,
    o.owed_segments,
    o.owed_amount,
    o.lines,
    o.billed_segments,
    o.billed_amount
FROM run_outcomes AS o;

-- name: drop_outcomes
-- Forgets what the run before came to, with which the period can be closed no more.
DELETE FROM outcomes
WHERE run_id = $1;

-- name: keep_even_outcomes
-- Keeps what a run came to for the messages that came out even.
INSERT INTO even_outcomes (run_id, shard, seq, status, segments, amount, charged, ids)
SELECT
    $1,
    w.shard,
    row_number() OVER (ORDER BY w.shard),
    w.status,
    w.segments,
    w.segments * w.price,
    w.charged,
    w.ids
FROM run_weighed AS w
WHERE w.key IS NULL;

-- name: drop_even_outcomes
-- Forgets them of the run before.
DELETE FROM even_outcomes
WHERE run_id = $1;

-- name: name_newest_run
-- Says which run a period would be closed with.
UPDATE periods
SET newest_run = $4
WHERE account = $1 AND first_day = $2 AND last_day = $3;

-- name: add_adjustments
-- Keeps what run $1 changes of what the closed run $2 came to, message by message, in an order that a rerun
-- repeats. A message that was in doubt then may have come to its real key since. Of a message that came out even
-- only the key is kept: its id and phone stand in the ledger.
WITH then_placed AS (
    SELECT
        o.shard,
        o.key,
        coalesce(v.moved_to, o.key) AS now_key,
        o.vendor_message_id,
        o.phone,
        o.status,
        o.sent_segments,
        o.owed_segments,
        o.owed_amount,
        o.lines,
        o.billed_segments,
        o.billed_amount
    FROM outcomes AS o
    LEFT JOIN moved_messages AS v ON o.key = v.id
    WHERE o.run_id = $2
    UNION ALL
    SELECT
        NULL,
        k.key,
        k.key,
        NULL,
        NULL,
        e.status,
        e.segments,
        CASE WHEN e.charged THEN e.segments END,
        CASE WHEN e.charged THEN e.amount END,
        CASE WHEN e.charged THEN 1 ELSE 0 END,
        CASE WHEN e.charged THEN e.segments ELSE 0 END,
        CASE WHEN e.charged THEN e.amount ELSE 0 END
    FROM even_outcomes AS e
    CROSS JOIN LATERAL (
        SELECT encode(substring(e.ids FROM 16 * n.nth + 1 FOR 16), 'hex')::uuid AS key
        FROM generate_series(0, length(e.ids) / 16 - 1) AS n (nth)
    ) AS k
    WHERE e.run_id = $2
),

before AS (
    SELECT
        t.now_key AS key,
        min(t.shard) AS shard,
        min(t.vendor_message_id COLLATE "C") AS vendor_message_id,
        min(t.phone COLLATE "C") AS phone,
        min(t.status COLLATE "C") AS status,
        sum(t.sent_segments)::integer AS sent_segments,
        sum(t.owed_segments)::integer AS owed_segments,
        sum(t.owed_amount) AS owed_amount,
        sum(t.lines)::bigint AS lines,
        sum(t.billed_segments)::bigint AS billed_segments,
        sum(t.billed_amount) AS billed_amount
    FROM then_placed AS t
    GROUP BY t.now_key
),

after AS (
    SELECT
        o.shard,
        o.key,
        o.vendor_message_id,
        o.phone,
        o.status,
        o.sent_segments,
        o.owed_segments,
        o.owed_amount,
        o.lines,
        o.billed_segments,
        o.billed_amount
    FROM run_outcomes AS o
    UNION ALL
    SELECT
        NULL,
        k.key,
        NULL,
        NULL,
        w.status,
        w.segments,
        CASE WHEN w.charged THEN w.segments END,
        CASE WHEN w.charged THEN w.segments * w.price END,
        CASE WHEN w.charged THEN 1 ELSE 0 END,
        CASE WHEN w.charged THEN w.segments ELSE 0 END,
        CASE WHEN w.charged THEN w.segments * w.price ELSE 0 END
    FROM run_weighed AS w
    CROSS JOIN LATERAL (
        SELECT encode(substring(w.ids FROM 16 * n.nth + 1 FOR 16), 'hex')::uuid AS key
        FROM generate_series(0, length(w.ids) / 16 - 1) AS n (nth)
    ) AS k
    WHERE w.key IS NULL
),

changed AS (
    SELECT
        coalesce(a.key, b.key) AS key,
        coalesce(
            a.shard, b.shard, ('x' || left(replace(coalesce(a.key, b.key)::text, '-', ''), 8))::bit(32)::integer
        ) AS shard,
        coalesce(a.vendor_message_id, b.vendor_message_id) AS vendor_message_id,
        coalesce(a.phone, b.phone) AS phone,
        b.status AS status_before,
        a.status AS status_after,
        b.sent_segments AS sent_segments_before,
        a.sent_segments AS sent_segments_after,
        b.owed_segments AS owed_segments_before,
        a.owed_segments AS owed_segments_after,
        b.owed_amount AS owed_amount_before,
        a.owed_amount AS owed_amount_after,
        coalesce(b.lines, 0) AS lines_before,
        coalesce(a.lines, 0) AS lines_after,
        coalesce(b.billed_segments, 0) AS billed_segments_before,
        coalesce(a.billed_segments, 0) AS billed_segments_after,
        coalesce(b.billed_amount, 0) AS billed_amount_before,
        coalesce(a.billed_amount, 0) AS billed_amount_after
    FROM before AS b
    FULL JOIN after AS a ON b.key = a.key
    WHERE
        (
            b.status,
            b.sent_segments,
            b.owed_segments,
            b.owed_amount,
            b.lines,
            b.billed_segments,
            b.billed_amount
        )
        IS DISTINCT FROM
        (
            a.status,
            a.sent_segments,
            a.owed_segments,
            a.owed_amount,
            a.lines,
            a.billed_segments,
            a.billed_amount
        )
),

named AS (
    SELECT
        c.*,
        coalesce(c.vendor_message_id, m.vendor_message_id) AS named_id,
        coalesce(c.phone, m.phone) AS named_phone
    FROM changed AS c
    LEFT JOIN messages AS m ON c.vendor_message_id IS NULL AND c.shard = m.shard AND c.key = m.id
)

INSERT INTO adjustments (
    run_id,
    seq,
    shard,
    key,
    vendor_message_id,
    phone,
    status_before,
    status_after,
    sent_segments_before,
    sent_segments_after,
    owed_segments_before,
    owed_segments_after,
    owed_amount_before,
    owed_amount_after,
    lines_before,
    lines_after,
    billed_segments_before,
    billed_segments_after,
    billed_amount_before,
    billed_amount_after
)
SELECT
    $1,
    row_number() OVER (
        ORDER BY
            n.named_id COLLATE "C",
            n.named_phone COLLATE "C",
            n.key
    ),
    n.shard,
    n.key,
    n.named_id,
    n.named_phone,
    n.status_before,
    n.status_after,
    n.sent_segments_before,
    n.sent_segments_after,
    n.owed_segments_before,
    n.owed_segments_after,
    n.owed_amount_before,
    n.owed_amount_after,
    n.lines_before,
    n.lines_after,
    n.billed_segments_before,
    n.billed_segments_after,
    n.billed_amount_before,
    n.billed_amount_after
FROM named AS n;

-- name: count_adjustments
-- Adds up what an adjustment changes: what is now less what was.
SELECT
    count(*) AS changed,
    count(a.sent_segments_after) - count(a.sent_segments_before) AS sent_messages,
    coalesce(sum(coalesce(a.sent_segments_after, 0) - coalesce(a.sent_segments_before, 0)), 0)::bigint
        AS sent_segments,
    count(a.owed_segments_after) - count(a.owed_segments_before) AS owed_messages,
    coalesce(sum(coalesce(a.owed_segments_after, 0) - coalesce(a.owed_segments_before, 0)), 0)::bigint
        AS owed_segments,
    coalesce(sum(coalesce(a.owed_amount_after, 0) - coalesce(a.owed_amount_before, 0)), 0) AS owed_amount,
    coalesce(sum(a.lines_after - a.lines_before), 0)::bigint AS billed_lines,
    coalesce(sum(a.billed_segments_after - a.billed_segments_before), 0)::bigint AS billed_segments,
    coalesce(sum(a.billed_amount_after - a.billed_amount_before), 0) AS billed_amount
FROM adjustments AS a
WHERE a.run_id = $1;

-- name: list_adjustments
-- Lists what an adjustment changes in its order, after a number.
SELECT
    seq,
    key AS message_id,
    vendor_message_id,
    phone,
    status_before,
    status_after,
    sent_segments_before,
    sent_segments_after,
    owed_segments_before,
    owed_segments_after,
    owed_amount_before,
    owed_amount_after,
    lines_before,
    lines_after,
    billed_segments_before,
    billed_segments_after,
    billed_amount_before,
    billed_amount_after
FROM adjustments
WHERE run_id = $1 AND seq > $2
ORDER BY seq
LIMIT $3;

-- name: run_to_close
-- Reads what decides whether a run can close its period, and holds the period.
SELECT
    r.account,
    r.first_day,
    r.last_day,
    r.version,
    p.versions,
    p.newest_run,
    p.closed_run,
    p.closed_at,
    p.closed_by
FROM runs AS r
INNER JOIN periods AS p ON r.account = p.account AND r.first_day = p.first_day AND r.last_day = p.last_day
WHERE r.id = $1 AND NOT r.assumed
FOR UPDATE OF p;

-- name: close_period
-- Closes a period with a run, for ever.
UPDATE periods
SET closed_run = $4, closed_at = $5, closed_by = $6
WHERE account = $1 AND first_day = $2 AND last_day = $3 AND closed_run IS NULL;
