-- Alarms: what a person should know of, and until when.

-- name: raise_alarm
-- Raises an alarm, or notes that one which stands was seen again; says whether it is new.
INSERT INTO alarms AS a (id, account, kind, since, last_seen_at, words, figures)
VALUES ($1, $2, $3, $4, $4, $5, $6)
ON CONFLICT (account, kind) WHERE ended_at IS NULL DO UPDATE
SET
    last_seen_at = greatest(a.last_seen_at, excluded.last_seen_at),
    words = excluded.words,
    figures = excluded.figures
RETURNING a.id = $1 AS rose;

-- name: end_alarm
-- Ends an alarm that stands, if one does.
UPDATE alarms
SET ended_at = $3
WHERE account = $1 AND kind = $2 AND ended_at IS NULL
RETURNING id, since;

-- name: list_alarms
-- Lists alarms, the newest first: those that stand, or all; after a time and id with a cursor.
SELECT
    a.id,
    a.account,
    a.kind,
    a.since,
    a.last_seen_at,
    a.ended_at,
    a.words,
    a.figures
FROM alarms AS a
WHERE
    a.account = ANY($1::text[])
    AND ($2::text IS NULL OR a.kind = $2)
    AND ($3::boolean OR a.ended_at IS NULL)
    AND ($4::timestamptz IS NULL OR (a.since, a.id) < ($4, $5::uuid))
ORDER BY a.since DESC, a.id DESC
LIMIT $6;

-- name: alarm_states
-- Says of every kind of alarm that an account ever had whether it stands.
SELECT
    a.account,
    a.kind,
    bool_or(a.ended_at IS NULL) AS stands
FROM alarms AS a
WHERE a.account = ANY($1::text[])
GROUP BY a.account, a.kind;
