-- How soon receipts come, and whether they do.

-- name: count_sent
-- Counts an account's messages sent from $2 to $3.
SELECT count(*)
FROM messages AS m
WHERE m.account = $1 AND m.sent_at >= $2 AND m.sent_at < $3;

-- name: arrivals
-- Counts, of an account's messages sent from $2 to $3 or of a sample of them ($4 a power of two less one), those
-- of each minute by how many minutes later a first receipt came by each way, if any did until $5.
WITH sampled AS (
    SELECT
        m.shard,
        m.id,
        floor(extract(EPOCH FROM m.sent_at - $2) / 60)::integer AS minute
    FROM messages AS m
    WHERE
        m.account = $1
        AND m.sent_at >= $2
        AND m.sent_at < $3
        AND uuid_hash(m.id) & $4::integer = 0
        AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
)

SELECT
    s.minute,
    f.pushed - s.minute AS push_lag,
    f.pulled - s.minute AS pull_lag,
    f.polled - s.minute AS query_lag,
    count(*) AS messages
FROM sampled AS s
CROSS JOIN LATERAL (
    SELECT
        floor(extract(EPOCH FROM min(r.received_at) FILTER (WHERE r.source = 'push') - $2) / 60)::integer AS pushed,
        floor(extract(EPOCH FROM min(r.received_at) FILTER (WHERE r.source = 'pull') - $2) / 60)::integer AS pulled,
        floor(extract(EPOCH FROM min(r.received_at) FILTER (WHERE r.source = 'query') - $2) / 60)::integer AS polled
    FROM reports AS r
    WHERE r.shard = s.shard AND r.message_id = s.id AND NOT r.left_out AND r.received_at < $5
) AS f
GROUP BY s.minute, f.pushed, f.pulled, f.polled;

-- name: learned_days
-- Says which days of an account were learned from $2 on.
SELECT d.day
FROM arrival_days AS d
WHERE d.account = $1 AND d.day >= $2;

-- name: keep_day
-- Keeps what a day taught.
INSERT INTO arrival_days (account, day, source, messages, sent, came, arrived)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (account, day) DO NOTHING;

-- name: forget_days
-- Forgets the days of an account before $2.
DELETE FROM arrival_days
WHERE account = $1 AND day < $2;

-- name: arrival_days
-- Reads what the days of an account taught, the newest first.
SELECT
    d.source,
    d.sent,
    d.came,
    d.arrived
FROM arrival_days AS d
WHERE d.account = $1
ORDER BY d.day DESC;

-- name: keep_curve
-- Keeps what all days of an account taught.
INSERT INTO arrival_curves (account, learned_at, source, model)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE
SET
    learned_at = excluded.learned_at,
    source = excluded.source,
    model = excluded.model;

-- name: forget_curve
-- Forgets what an account taught, of which too few days are left.
DELETE FROM arrival_curves
WHERE account = $1;

-- name: arrival_curves
-- Reads what accounts taught, and how many days were looked at.
SELECT
    a.account,
    c.learned_at,
    c.source,
    c.model,
    (SELECT count(*) FROM arrival_days AS d WHERE d.account = a.account) AS days
FROM unnest($1::text[]) AS a (account)
LEFT JOIN arrival_curves AS c ON a.account = c.account
ORDER BY a.account;

-- name: settling_behind
-- Says whether what was recorded within the last ten minutes waits to be settled for more than one.
SELECT EXISTS (
    SELECT 1
    FROM batches AS b
    WHERE
        b.settled_at IS NULL
        AND b.recorded_at > $1::timestamptz - interval '10 minutes'
        AND b.recorded_at < $1::timestamptz - interval '1 minute'
);
