-- Versions of a period's runs: which is the newest, which closed it, and what later ones change.

-- name: take_version
-- Gives a run its version, as the first statement of its transaction: runs of a period wait for each other,
-- and whoever waited must begin again.
INSERT INTO periods (account, first_day, last_day, versions)
VALUES ($1, $2, $3, 1)
ON CONFLICT (account, first_day, last_day) DO UPDATE SET versions = periods.versions + 1
RETURNING versions, newest_run, closed_run, closed_at, closed_by;

-- name: take_outcomes
-- Takes what the run came to for each message of the period, and for each line of another or of none.
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

-- name: name_newest_run
-- Says which run a period would be closed with.
UPDATE periods
SET newest_run = $4
WHERE account = $1 AND first_day = $2 AND last_day = $3;

-- name: add_adjustments
-- Keeps what run $1 changes of what the closed run $2 came to, message by message, in an order that a rerun
-- repeats. A message that was in doubt then may have come to its real key since.
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
            coalesce(a.vendor_message_id, b.vendor_message_id) COLLATE "C",
            coalesce(a.phone, b.phone) COLLATE "C",
            coalesce(a.key, b.key)
    ),
    coalesce(a.shard, b.shard),
    coalesce(a.key, b.key),
    coalesce(a.vendor_message_id, b.vendor_message_id),
    coalesce(a.phone, b.phone),
    b.status,
    a.status,
    b.sent_segments,
    a.sent_segments,
    b.owed_segments,
    a.owed_segments,
    b.owed_amount,
    a.owed_amount,
    coalesce(b.lines, 0),
    coalesce(a.lines, 0),
    coalesce(b.billed_segments, 0),
    coalesce(a.billed_segments, 0),
    coalesce(b.billed_amount, 0),
    coalesce(a.billed_amount, 0)
FROM before AS b
FULL JOIN run_outcomes AS a ON b.key = a.key
WHERE
    (b.status, b.sent_segments, b.owed_segments, b.owed_amount, b.lines, b.billed_segments, b.billed_amount)
    IS DISTINCT FROM
    (a.status, a.sent_segments, a.owed_segments, a.owed_amount, a.lines, a.billed_segments, a.billed_amount);

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
