-- Looking at what goes wrong slowly: what an alarm is judged by.

-- name: weigh_quarantine
-- Counts of each account what was not understood and still waits: all, what came since $2, and since $3.
SELECT
    a.account,
    count(q.digest) AS waiting,
    count(q.digest) FILTER (WHERE q.received_at >= $2::timestamptz) AS hour,
    count(q.digest) FILTER (WHERE q.received_at >= $3::timestamptz) AS day
FROM unnest($1::text[]) AS a (account)
LEFT JOIN quarantine AS q ON a.account = q.account
GROUP BY a.account
ORDER BY a.account;

-- name: count_quarantine
-- Counts of each account what was not understood and still waits.
SELECT
    a.account,
    (SELECT count(*) FROM quarantine AS q WHERE q.account = a.account) AS waiting
FROM unnest($1::text[]) AS a (account)
ORDER BY a.account;

-- name: count_some_records
-- Counts an account's records since $2, up to $3.
SELECT count(*)
FROM (
    SELECT 1
    FROM records AS r
    WHERE r.account = $1 AND r.received_at >= $2
    LIMIT $3
) AS t;

-- name: weigh_lost_pulls
-- Counts the read-once pages that each of some accounts lost since $2.
SELECT
    a.account,
    (
        SELECT count(*)
        FROM pulls AS p
        WHERE p.account = a.account AND p.state = 'lost' AND p.intended_at >= $2
    ) AS lost
FROM unnest($1::text[]) AS a (account)
ORDER BY a.account;

-- name: standing_alarms
-- Lists the alarms that stand of an account and some kinds, each with when it was last seen.
SELECT
    a.kind,
    a.last_seen_at,
    a.figures
FROM alarms AS a
WHERE a.account = $1 AND a.kind = ANY($2::text[]) AND a.ended_at IS NULL;

-- name: segments_by_day
-- Adds up, by day in zone $4, the segments of an account's messages from $2 to $3: those that are charged for on
-- submission, and on delivery if what still waits is delivered.
SELECT
    (m.sent_at AT TIME ZONE $4)::date AS day,
    sum(m.segments) FILTER (
        WHERE m.status NOT IN ('submitting', 'indeterminate', 'refused')
    ) AS submitted,
    sum(m.segments) FILTER (WHERE m.status IN ('submitted', 'delivered')) AS delivered
FROM messages AS m
WHERE m.account = $1 AND m.sent_at >= $2 AND m.sent_at < $3
GROUP BY 1
ORDER BY 1;

-- name: billed_within
-- Adds up the newest versions of an account's statements within the days from $2 to $3, but for those of a period
-- that lies in another's.
WITH newest AS (
    SELECT DISTINCT ON (s.first_day, s.last_day)
        s.first_day,
        s.last_day,
        s.amount
    FROM statements AS s
    WHERE s.account = $1 AND s.first_day >= $2 AND s.last_day <= $3
    ORDER BY s.first_day, s.last_day, s.version DESC
)

SELECT coalesce(sum(n.amount), 0) AS billed
FROM newest AS n
WHERE NOT EXISTS (
    SELECT 1
    FROM newest AS o
    WHERE
        o.first_day <= n.first_day
        AND o.last_day >= n.last_day
        AND (o.first_day, o.last_day) <> (n.first_day, n.last_day)
);
