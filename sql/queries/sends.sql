-- Sending: the intent before the call, the outcome after it, and giving messages the ids that vendors gave them.

-- name: add_send
-- Stores what was asked for; nothing if its key was used before.
INSERT INTO sends (id, account, idempotency_key, request_digest, requested_at, duplicates, alive_until)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7::float8))
ON CONFLICT (account, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id;

-- name: send_of_key
-- Finds what was asked for under a key.
SELECT
    id,
    request_digest
FROM sends
WHERE account = $1 AND idempotency_key = $2;

-- name: add_submissions
-- Stores the calls that a send will take.
INSERT INTO submissions (id, send_id, account, seq, numbers, state)
SELECT
    t.id,
    $1,
    $2,
    t.seq,
    t.numbers,
    'queued'
FROM unnest($3::uuid[], $4::integer[], $5::integer[]) AS t (id, seq, numbers);

-- name: add_submitting
-- Adds messages that are about to be sent, under provisional ids.
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
    sign,
    reference,
    template_id,
    submission_id
)
SELECT
    t.shard,
    t.id,
    $1,
    t.vendor_message_id,
    t.phone,
    $2,
    $3,
    t.segments,
    FALSE,
    'submitting',
    t.content,
    $4,
    $5,
    $6,
    t.submission_id
FROM unnest($7::integer[], $8::uuid[], $9::text[], $10::text[], $11::integer[], $12::text[], $13::uuid[]) AS t (
    shard,
    id,
    vendor_message_id,
    phone,
    segments,
    content,
    submission_id
);

-- name: claim_submission
-- Says that a call is about to be made, unless it was given up meanwhile.
UPDATE submissions
SET state = 'calling', called_at = $2
WHERE id = $1 AND state = 'queued'
RETURNING id;

-- name: keep_send_alive
-- Says that a send is still being worked on.
UPDATE sends
SET alive_until = clock_timestamp() + make_interval(secs => $2::float8)
WHERE id = $1 AND alive_until IS NOT NULL;

-- name: end_send
-- Says that a send is over; with $2 its key is free again, for nothing of it was sent.
UPDATE sends
SET alive_until = NULL, idempotency_key = CASE WHEN $2 THEN NULL ELSE idempotency_key END
WHERE id = $1;

-- name: send
-- Reads what was asked for and whether it is over.
SELECT
    id,
    account,
    requested_at,
    duplicates,
    alive_until IS NOT NULL AS open
FROM sends
WHERE id = $1;

-- name: messages_of_send
-- Reads the messages of a send in the order of its calls.
SELECT
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.segments,
    m.sent_at,
    m.reported_at,
    m.vendor_code,
    m.reason,
    m.reference,
    m.contradicted
FROM submissions AS s
INNER JOIN messages AS m ON s.id = m.submission_id
WHERE s.send_id = $1
ORDER BY s.seq, m.phone;

-- name: submission
-- Reads one call.
SELECT
    send_id,
    state,
    numbers,
    called_at,
    finished_at,
    vendor_code,
    reason,
    digest
FROM submissions
WHERE id = $1;

-- name: dead_sends
-- Takes sends whose sender is gone; no other taker waits for them.
SELECT
    id,
    account
FROM sends
WHERE alive_until < clock_timestamp()
ORDER BY alive_until
LIMIT $1
FOR UPDATE SKIP LOCKED;

-- name: open_submissions
-- Reads the calls of a send whose outcome nobody has stored.
SELECT
    id,
    state
FROM submissions
WHERE send_id = $1 AND state IN ('queued', 'calling')
ORDER BY seq
FOR UPDATE;

-- name: lock_unidentified
-- Locks the messages of a submission that have no vendor id yet; all stand in one shard.
SELECT
    m.id,
    m.phone,
    m.sent_at
FROM messages AS m
WHERE m.shard = $1 AND m.vendor_message_id = $2 AND m.status IN ('submitting', 'indeterminate')
ORDER BY m.id
FOR UPDATE;

-- name: lock_referred
-- Locks messages without a vendor id that reports name by our own reference.
SELECT
    m.shard,
    m.id,
    m.phone,
    m.sent_at
FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS t (shard, id, phone)
INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
WHERE m.account = $1 AND m.phone = t.phone AND m.status IN ('submitting', 'indeterminate')
ORDER BY m.shard, m.id
FOR UPDATE OF m;

-- name: identify
-- Moves messages to the key of the id that the vendor gave them. One that somebody registered under that id
-- stands as it is. What was indeterminate is still found under the id that it had.
WITH given AS (
    SELECT
        t.old_shard,
        t.old_id,
        t.shard,
        t.id,
        t.vendor_message_id,
        t.next_poll_at
    FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::timestamptz[]) AS t (
        old_shard,
        old_id,
        shard,
        id,
        vendor_message_id,
        next_poll_at
    )
),

gone AS (
    DELETE FROM messages AS m
    USING given AS g
    WHERE
        m.shard = g.old_shard
        AND m.id = g.old_id
        AND m.status IN ('submitting', 'indeterminate')
        AND m.purge_id IS NULL -- its number is gone, and what is linked of it names its id
    RETURNING m.*
),

identified AS (
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
        sign,
        reference,
        template_id,
        submission_id,
        outcome_by
    )
    SELECT
        g.shard,
        g.id,
        m.account,
        g.vendor_message_id,
        m.phone,
        m.sent_at,
        m.registered_at,
        m.segments,
        m.segments_given,
        'submitted',
        m.content,
        m.sign,
        m.reference,
        m.template_id,
        m.submission_id,
        $7
    FROM gone AS m
    INNER JOIN given AS g ON m.shard = g.old_shard AND m.id = g.old_id
    ON CONFLICT (shard, id) DO UPDATE
    SET submission_id = excluded.submission_id, outcome_by = excluded.outcome_by
    RETURNING shard, id, account, sent_at, xmax = 0 AS fresh
),

awaited AS (
    INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
    SELECT
        i.shard,
        i.id,
        i.account,
        i.sent_at,
        g.next_poll_at
    FROM identified AS i
    INNER JOIN given AS g ON i.shard = g.shard AND i.id = g.id
    WHERE i.fresh AND g.next_poll_at IS NOT NULL
),

unlinked AS (
    INSERT INTO unlinked_messages (registered_at, message_ids)
    SELECT
        now(),
        array_agg(i.id ORDER BY i.id)
    FROM identified AS i
    WHERE i.fresh
    HAVING count(*) > 0
),

moved AS (
    INSERT INTO moved_messages (id, moved_to)
    SELECT
        m.id,
        g.id
    FROM gone AS m
    INNER JOIN given AS g ON m.shard = g.old_shard AND m.id = g.old_id
    WHERE m.status = 'indeterminate'
    ON CONFLICT (id) DO NOTHING
)

SELECT
    g.shard,
    g.id
FROM gone AS m
INNER JOIN given AS g ON m.shard = g.old_shard AND m.id = g.old_id;

-- name: refuse_messages
-- Says of messages without a vendor id that they were not sent, and why.
UPDATE messages AS m
SET
    status = 'refused',
    vendor_code = t.vendor_code,
    reason = t.reason,
    outcome_by = $5
FROM unnest($2::uuid[], $3::text[], $4::text[]) AS t (id, vendor_code, reason)
WHERE m.shard = $1 AND m.id = t.id AND m.status IN ('submitting', 'indeterminate');

-- name: doubt_messages
-- Says of messages without a vendor id that nobody knows whether they were sent.
UPDATE messages
SET status = 'indeterminate', reason = $3
WHERE shard = $1 AND id = ANY($2::uuid[]) AND status = 'submitting';

-- name: conclude_submission
-- Keeps the outcome of a call; what is certain is never overwritten.
UPDATE submissions
SET
    state = $2,
    finished_at = $3,
    vendor_code = $4,
    reason = $5,
    digest = coalesce($6, digest)
WHERE id = $1 AND state IN ('queued', 'calling', 'indeterminate');

-- name: identifiable_by_reports
-- Finds messages whose outcome is not known and whose number is named, in the time in question, by orphaned
-- reports of exactly one id, while no other message to that number is in doubt. The few in doubt are looked
-- up among all orphans, which are few too. `names` are all ids that the reports may mean, the likeliest first.
WITH doubtful AS (
    SELECT
        m.shard,
        m.id,
        m.phone,
        m.sent_at,
        m.registered_at,
        m.status,
        s.numbers,
        count(*) OVER (PARTITION BY m.phone) AS rivals
    FROM messages AS m
    INNER JOIN submissions AS s ON m.submission_id = s.id
    WHERE
        m.account = $1
        AND m.submission_id IS NOT NULL
        AND m.outcome_by IS NULL
        AND m.status IN ('submitting', 'indeterminate')
)

SELECT
    d.shard,
    d.id,
    d.phone,
    d.sent_at,
    d.numbers,
    min(r.vendor_message_id) FILTER (WHERE NOT r.alternate) AS vendor_message_id,
    array_agg(r.vendor_message_id ORDER BY r.alternate, r.vendor_message_id) AS names
FROM doubtful AS d
INNER JOIN reports AS r
    ON
        d.phone = r.phone
        AND r.account = $1
        AND r.orphan
        AND NOT r.left_out
        AND coalesce(r.reported_at, r.received_at) >= d.sent_at - make_interval(secs => $3::float8)
        AND coalesce(r.reported_at, r.received_at) <= d.sent_at + make_interval(secs => $4::float8)
        AND r.received_at >= d.registered_at - make_interval(secs => $3::float8)
WHERE d.status = 'indeterminate' AND d.rivals = 1 AND d.registered_at <= $2
GROUP BY d.shard, d.id, d.phone, d.sent_at, d.numbers
HAVING count(DISTINCT r.vendor_message_id) FILTER (WHERE NOT r.alternate) = 1
LIMIT $5;

-- name: identifiable_by_statement
-- Finds messages whose outcome is not known and which exactly one line of a statement bills to their number
-- under an id that nobody knows: same segments, and the same time where the line has one.
WITH doubtful AS (
    SELECT
        m.shard,
        m.id,
        m.phone,
        m.sent_at,
        m.segments,
        m.status,
        count(*) OVER (PARTITION BY m.phone) AS rivals
    FROM messages AS m
    WHERE
        m.account = $1
        AND m.submission_id IS NOT NULL
        AND m.outcome_by IS NULL
        AND m.status IN ('submitting', 'indeterminate')
)

SELECT
    d.shard,
    d.id,
    d.phone,
    d.sent_at,
    min(l.vendor_message_id) AS vendor_message_id
FROM doubtful AS d
INNER JOIN lines AS l
    ON
        d.phone = l.phone
        AND l.statement_id = $2
        AND d.segments = l.segments
        AND (
            l.sent_at IS NULL
            OR l.sent_at BETWEEN d.sent_at - make_interval(secs => $3::float8)
            AND d.sent_at + make_interval(secs => $3::float8)
        )
LEFT JOIN messages AS known ON l.shard = known.shard AND l.message_id = known.id
WHERE
    d.status = 'indeterminate'
    AND d.rivals = 1
    AND known.id IS NULL
    AND (l.sent_at IS NOT NULL OR d.sent_at BETWEEN $4 AND $5)
GROUP BY d.shard, d.id, d.phone, d.sent_at
HAVING count(*) = 1;

-- name: moved_to
-- Finds where a message that was indeterminate stands now.
SELECT moved_to
FROM moved_messages
WHERE id = $1;

-- name: approved_sign
-- Finds the id of an approved sign by its name.
SELECT vendor_id
FROM reviews
WHERE account = $1 AND kind = 'sign' AND status = 'approved' AND name = $2
ORDER BY updated_at DESC NULLS LAST, vendor_id
LIMIT 1;

-- name: review_text
-- Reads the name of a sign or the text of a template.
SELECT
    name,
    content
FROM reviews
WHERE account = $1 AND kind = $2 AND vendor_id = $3;
