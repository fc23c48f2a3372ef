-- Asking vendors again: which messages and reviews are due, when they are next, and when waiting ends.
-- What locks several rows of awaiting without the lock of their messages must not wait for one of them:
-- settling holds both. Hence SKIP LOCKED; a row that is locked elsewhere is being answered there.

-- name: claim_awaiting
-- Takes messages that are due by $2; until $3 nobody else takes them, and a dead taker's come back then.
WITH due AS (
    SELECT
        a.shard,
        a.message_id
    FROM awaiting AS a
    WHERE a.account = $1 AND a.next_poll_at <= $2
    ORDER BY a.next_poll_at
    LIMIT $4
    FOR UPDATE SKIP LOCKED
),

claimed AS (
    UPDATE awaiting AS a
    SET
        next_poll_at = $3,
        polls = a.polls + 1
    FROM due
    WHERE a.shard = due.shard AND a.message_id = due.message_id
    RETURNING a.shard, a.message_id, a.sent_at, a.polls
)

SELECT
    c.shard,
    c.message_id,
    c.sent_at,
    c.polls,
    m.vendor_message_id
FROM claimed AS c
INNER JOIN messages AS m ON c.shard = m.shard AND c.message_id = m.id;

-- name: schedule_awaiting
-- Says when to ask again about messages that were just asked about: after $4 seconds, doubled with every
-- question up to $5, and in any case once $6 seconds after sending, when waiting may end.
WITH asked AS (
    SELECT
        a.shard,
        a.message_id,
        $3::timestamptz + make_interval(secs => least($4::float8 * 2 ^ least(a.polls - 1, 30), $5::float8)) AS next_at,
        a.sent_at + make_interval(secs => $6::float8) AS until
    FROM unnest($1::integer[], $2::uuid[]) AS t (shard, message_id)
    INNER JOIN awaiting AS a ON t.shard = a.shard AND t.message_id = a.message_id
    FOR UPDATE OF a SKIP LOCKED
)

UPDATE awaiting AS a
SET next_poll_at = CASE WHEN asked.until > $3 THEN least(asked.next_at, asked.until) ELSE asked.next_at END
FROM asked
WHERE a.shard = asked.shard AND a.message_id = asked.message_id;

-- name: ask_now
-- Makes every message of an account that was sent by $3 due at once, whatever its back-off.
WITH later AS (
    SELECT
        a.shard,
        a.message_id
    FROM awaiting AS a
    WHERE a.account = $1 AND a.next_poll_at > $2 AND a.sent_at <= $3
    FOR UPDATE SKIP LOCKED
)

UPDATE awaiting AS a
SET next_poll_at = $2
FROM later
WHERE a.shard = later.shard AND a.message_id = later.message_id;

-- name: expirable
-- Finds messages whose waiting ended by the clock: due by $2 and sent by $3.
SELECT
    shard,
    message_id
FROM awaiting
WHERE account = $1 AND next_poll_at <= $2 AND sent_at <= $3
ORDER BY next_poll_at
LIMIT $4;

-- name: expire
-- Ends the waiting for messages; run it after lock_messages, in one transaction, so that a final report
-- folded meanwhile stands.
WITH ended AS (
    DELETE FROM awaiting AS a
    USING unnest($1::integer[], $2::uuid[]) AS t (shard, message_id)
    WHERE a.shard = t.shard AND a.message_id = t.message_id
    RETURNING a.shard, a.message_id
),

expired AS (
    UPDATE messages AS m
    SET status = 'expired'
    FROM ended AS e
    WHERE m.shard = e.shard AND m.id = e.message_id AND m.status = 'submitted'
    RETURNING m.id
)

SELECT count(*) AS expired
FROM expired;

-- name: claim_reviews
-- Takes signs and templates under review that are due by $2, and puts the next question off by $4 seconds,
-- doubled with every question up to $5.
WITH due AS (
    SELECT
        r.account,
        r.kind,
        r.vendor_id
    FROM reviews AS r
    WHERE r.account = $1 AND r.next_poll_at <= $2
    ORDER BY r.next_poll_at
    LIMIT $6
    FOR UPDATE SKIP LOCKED
)

UPDATE reviews AS r
SET
    next_poll_at = $3::timestamptz + make_interval(secs => least($4::float8 * 2 ^ least(r.polls, 30), $5::float8)),
    polls = r.polls + 1
FROM due
WHERE r.account = due.account AND r.kind = due.kind AND r.vendor_id = due.vendor_id
RETURNING r.kind, r.vendor_id;
