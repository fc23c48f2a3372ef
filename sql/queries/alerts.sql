-- Telling people of alarms: what is to be told where, and what was.

-- name: know_channels
-- Notes when channels were first seen.
INSERT INTO alert_channels (name, since)
SELECT
    t.name,
    $2
FROM unnest($1::text[]) AS t (name)
ON CONFLICT (name) DO NOTHING;

-- name: alert_channels
-- Says how some channels do.
SELECT
    c.name,
    c.since,
    c.last_sent_at,
    c.failures_in_row,
    c.again_at,
    c.error
FROM alert_channels AS c
WHERE c.name = ANY($1::text[])
ORDER BY c.name;

-- name: alerts_due
-- Lists what is to be told at channel $1 of alarms of some kinds ($2) and accounts ($3), the oldest first: that one
-- began; that it still stands, if that was last said before $5; that it is over. One that came and went untold is
-- told if it began since $4. What was over before $6 is left alone.
SELECT
    a.id AS about,
    a.account,
    a.kind,
    a.since,
    a.ended_at,
    a.words,
    a.figures,
    CASE
        WHEN t.told_at IS NULL AND a.ended_at IS NULL THEN 'began'
        WHEN t.told_at IS NULL THEN 'came_and_went'
        WHEN a.ended_at IS NULL THEN 'stands'
        ELSE 'ended'
    END AS what
FROM alarms AS a
LEFT JOIN alerts AS t ON t.channel = $1 AND a.id = t.about
WHERE
    a.kind = ANY($2::text[])
    AND a.account = ANY($3::text[])
    AND (
        (a.ended_at IS NULL AND (t.told_at IS NULL OR t.repeated_at <= $5::timestamptz))
        OR (a.ended_at >= $6::timestamptz AND t.told_at IS NULL AND a.since >= $4::timestamptz)
        OR (a.ended_at >= $6::timestamptz AND t.told_at IS NOT NULL AND t.ended_at IS NULL)
    )
ORDER BY a.since, a.id
LIMIT $7;

-- name: verdicts_due
-- Lists the verdicts on signs and templates of some accounts ($2) that first came since $3 and were not told at
-- channel $1; the same verdict on what was submitted again is another.
SELECT
    v.about,
    v.account,
    v.kind,
    v.vendor_id,
    v.status,
    v.name,
    v.reason,
    v.came_at
FROM (
    SELECT
        r.account,
        r.kind,
        r.vendor_id,
        r.status,
        r.name,
        r.reason,
        md5(concat_ws('|', r.account, r.kind, r.vendor_id, r.status, r.updated_at))::uuid AS about,
        (
            SELECT max(w.received_at)
            FROM review_results AS w
            WHERE w.account = r.account AND w.kind = r.kind AND w.vendor_id = r.vendor_id AND w.status = r.status
        ) AS came_at
    FROM reviews AS r
    WHERE r.account = ANY($2::text[]) AND r.status IN ('approved', 'rejected')
) AS v
WHERE
    v.came_at >= $3::timestamptz
    AND NOT EXISTS (SELECT 1 FROM alerts AS t WHERE t.channel = $1 AND t.about = v.about)
ORDER BY v.came_at, v.about
LIMIT $4;

-- name: note_told
-- Notes what was told at a channel; $3 says of which that it is over.
INSERT INTO alerts AS t (channel, about, told_at, repeated_at, ended_at)
SELECT
    $1,
    u.about,
    $4,
    $4,
    CASE WHEN u.ended THEN $4::timestamptz END
FROM unnest($2::uuid[], $3::boolean[]) AS u (about, ended)
ON CONFLICT (channel, about) DO UPDATE
SET
    repeated_at = excluded.repeated_at,
    ended_at = excluded.ended_at;

-- name: channel_worked
-- Notes that a channel took a message.
UPDATE alert_channels
SET
    last_sent_at = $2,
    failures_in_row = 0,
    again_at = NULL,
    error = NULL
WHERE name = $1;

-- name: channel_failed
-- Notes that a channel did not take a message, why, and when it is tried again.
UPDATE alert_channels
SET
    failures_in_row = failures_in_row + 1,
    again_at = $2,
    error = $3
WHERE name = $1;
