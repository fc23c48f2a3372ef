-- Storing raw bytes, and finding what has not been settled yet.

-- name: record
-- Stores callbacks once each, in one commit with the batch that they will be settled as. What they have in
-- common ($11 to $15) comes once, and each names its place there. With $16 they may have been stored before: an
-- arrival at the time of the first or the last one known is not counted again.
WITH batch AS (
    INSERT INTO batches (recorder, recorded_at)
    VALUES ($1, $2)
    RETURNING id
)
INSERT INTO records AS r (
    digest,
    account,
    source,
    call,
    subject,
    batch_id,
    received_at,
    last_received_at,
    deliveries,
    method,
    query,
    headers,
    body,
    peer
)
SELECT
    t.digest,
    ($11::text[])[t.head],
    ($12::text[])[t.head],
    ($13::text[])[t.head],
    t.subject,
    batch.id,
    t.received_at,
    t.received_at,
    t.deliveries,
    ($14::text[])[t.head],
    t.query,
    t.headers,
    t.body,
    ($15::text[])[t.head]
FROM unnest(
    $3::bytea[],
    $4::timestamptz[],
    $5::bigint[],
    $6::text[],
    $7::bytea[],
    $8::bytea[],
    $9::text[],
    $10::integer[]
) AS t (digest, received_at, deliveries, subject, query, body, headers, head)
CROSS JOIN batch
ON CONFLICT (digest) DO UPDATE
SET
    deliveries = r.deliveries + CASE
        WHEN $16::boolean AND excluded.received_at IN (r.received_at, r.last_received_at) THEN 0
        ELSE excluded.deliveries
    END,
    last_received_at = greatest(r.last_received_at, excluded.last_received_at)
RETURNING r.digest, r.batch_id, (SELECT id FROM batch) AS new_batch_id;

-- name: take_up_batches
-- Takes up the oldest batches that their recorder left unsettled before $1; until as much later as $3 is
-- after $1 nobody else takes them. No lock is held meanwhile: to settle twice is harmless. A time after $3,
-- which is now, was told by a clock that has been set back since: nobody waits for it to come.
WITH left_behind AS (
    SELECT id
    FROM batches
    WHERE
        settled_at IS NULL
        AND recorded_at NOT BETWEEN $1 AND $3
        AND (taken_up_at IS NULL OR taken_up_at NOT BETWEEN $1 AND $3)
    ORDER BY recorded_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)

UPDATE batches AS b
SET taken_up_at = $3
FROM left_behind AS l
WHERE b.id = l.id
RETURNING b.id;

-- name: records_of_batches
-- Reads the records of some batches.
SELECT
    digest,
    account,
    source,
    call,
    subject,
    received_at,
    deliveries,
    method,
    query,
    headers,
    body,
    peer
FROM records
WHERE batch_id = ANY($1::bigint[])
ORDER BY batch_id, digest;

-- name: batches_settled
-- Marks batches whose every record is parsed, folded or quarantined.
UPDATE batches
SET settled_at = $2
WHERE id = ANY($1::bigint[]);

-- name: probe
-- Proves, in a transaction that is rolled back, that a callback could be stored.
INSERT INTO batches (recorder, recorded_at)
VALUES ('probe', now());
