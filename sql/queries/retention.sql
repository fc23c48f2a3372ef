-- Purging by age, and what it keeps: each batch is one transaction.

-- name: oldest_of_account
-- Says when the oldest of what an account has was sent or received.
SELECT
    least(
        (SELECT min(r.received_at) FROM records AS r WHERE r.account = $1),
        (SELECT min(m.sent_at) FROM messages AS m WHERE m.account = $1),
        (SELECT min(i.received_at) FROM inbound AS i WHERE i.account = $1)
    ) AS at;

-- name: closed_periods
-- Reads the periods of an account that are closed.
SELECT
    first_day,
    last_day
FROM periods
WHERE account = $1 AND closed_run IS NOT NULL
ORDER BY first_day, last_day;

-- name: oldest_message_within
-- Says when the first of an account's messages that count was sent from $2 to $3, if any.
SELECT m.sent_at
FROM messages AS m
WHERE m.account = $1 AND m.sent_at >= $2 AND m.sent_at < $3 AND m.status <> 'refused'
ORDER BY m.sent_at
LIMIT 1;

-- name: days_purged
-- Reads the days of which nothing was left since $3.
SELECT day
FROM purged_days
WHERE account = $1 AND what = $2 AND done_at >= $3;

-- name: day_purged
-- Notes that nothing of a day is left to purge.
INSERT INTO purged_days (account, what, day, done_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account, what, day) DO UPDATE SET done_at = excluded.done_at;

-- name: bodies_to_purge
-- Reads which settled records of an account, from $2 to $3 and after a place in them, still have their bytes;
-- held are those that an unfinished dispute rests on.
WITH disputed AS (
    SELECT r.digest
    FROM cases AS c
    INNER JOIN reports AS r
        ON c.shard = r.shard AND c.vendor_message_id = r.vendor_message_id AND c.account = r.account
    WHERE c.account = $1 AND c.ended_at IS NULL
    UNION
    SELECT k.digest
    FROM cases AS c
    INNER JOIN run_reports AS k ON c.run_id = k.run_id AND c.shard = k.shard AND c.message_id = k.message_id
    WHERE c.account = $1 AND c.ended_at IS NULL
)

SELECT
    r.digest,
    r.received_at,
    length(r.body) + length(r.query) AS bytes,
    EXISTS (SELECT 1 FROM disputed AS d WHERE d.digest = r.digest) AS held
FROM records AS r
INNER JOIN batches AS b ON r.batch_id = b.id AND b.settled_at IS NOT NULL
WHERE
    r.account = $1
    AND r.received_at >= $2
    AND r.received_at < $3
    AND (r.received_at, r.digest) > ($4, $5::bytea)
    AND r.purge_id IS NULL
ORDER BY r.received_at, r.digest
LIMIT $6;

-- name: late_bodies
-- Reads records that name a message whose number was purged before they came, once they are settled.
SELECT l.digest
FROM late_records AS l
INNER JOIN records AS r ON l.digest = r.digest
INNER JOIN batches AS b ON r.batch_id = b.id AND b.settled_at IS NOT NULL
WHERE l.account = $1
ORDER BY l.digest
LIMIT $2;

-- name: late_bodies_gone
-- Forgets records that are purged.
DELETE FROM late_records
WHERE digest = ANY($1::bytea[]);

-- name: lock_bodies
-- Locks records that still have their bytes, in the order in which recording locks them.
SELECT r.digest
FROM records AS r
WHERE r.digest = ANY($1::bytea[]) AND r.purge_id IS NULL
ORDER BY r.digest
FOR NO KEY UPDATE;

-- name: purge_bodies
-- Drops the bytes and headers of records; what they are known by stays. A number in what a reply was about
-- goes too.
UPDATE records
SET
    purge_id = $2,
    purged_bytes = length(body) + length(query),
    body = '',
    query = '',
    headers = '{}',
    subject = CASE WHEN $3::text IS NULL THEN subject ELSE replace(subject, $3, $4) END
WHERE digest = ANY($1::bytea[])
RETURNING purged_bytes;

-- name: add_purge
-- Keeps what one batch purged.
INSERT INTO purges (id, account, what, purged_at, purged_by, records, messages, content, touched)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: records_of_purge
-- Reads which records a purge names.
SELECT digest
FROM records
WHERE purge_id = $1
ORDER BY digest;

-- name: messages_of_purge
-- Reads what is never purged of the messages that a purge names.
SELECT
    id,
    account,
    vendor_message_id,
    sent_at,
    registered_at,
    segments,
    segments_given
FROM messages
WHERE purge_id = $1
ORDER BY id;

-- name: messages_to_purge
-- Reads which messages of an account, sent from $2 to $3 and after a place in them, still have their text, or
-- with $7 their number; held are those in doubt, and those that an unfinished dispute is about.
SELECT
    m.shard,
    m.id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.status IN ('submitting', 'indeterminate')
    OR EXISTS (
        SELECT 1
        FROM cases AS c
        WHERE
            c.shard = m.shard
            AND c.vendor_message_id = m.vendor_message_id
            AND c.account = m.account
            AND c.ended_at IS NULL
    ) AS held
FROM messages AS m
WHERE
    m.account = $1
    AND m.sent_at >= $2
    AND m.sent_at < $3
    AND (m.sent_at, m.id) > ($4, $5::uuid)
    AND CASE WHEN $7::boolean THEN m.phone !~ '[A-Za-z]' ELSE m.content IS NOT NULL END
ORDER BY m.sent_at, m.id
LIMIT $6;

-- name: purge_messages
-- Drops the texts of messages that are locked, and their numbers where a pseudonym is given. Says of each what
-- is never purged, and whether this purge is its first.
UPDATE messages AS m
SET
    content = NULL,
    phone = coalesce(t.pseudonym, m.phone),
    reason = CASE WHEN t.pseudonym IS NULL THEN m.reason ELSE replace(m.reason, m.phone, t.pseudonym) END,
    reference = CASE WHEN t.pseudonym IS NULL THEN m.reference ELSE replace(m.reference, m.phone, t.pseudonym) END,
    purge_id = coalesce(m.purge_id, $1)
FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS t (shard, id, pseudonym)
WHERE m.shard = t.shard AND m.id = t.id
RETURNING
    m.id,
    m.account,
    m.vendor_message_id,
    m.sent_at,
    m.registered_at,
    m.segments,
    m.segments_given,
    m.purge_id = $1 AS first;

-- name: statements_naming
-- Finds statements with lines for some messages whose own digest of all lines is not kept yet.
SELECT DISTINCT l.statement_id AS id
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN lines AS l ON t.shard = l.shard AND t.id = l.message_id
INNER JOIN statements AS s ON l.statement_id = s.id
WHERE s.lines_sha256 IS NULL
ORDER BY 1;

-- name: keep_lines_digest
-- Keeps the digest of a statement's lines as they were linked.
UPDATE statements
SET lines_sha256 = $2
WHERE id = $1 AND lines_sha256 IS NULL;

-- name: runs_naming
-- Finds runs that found something about some messages whose own digests are not kept yet.
SELECT DISTINCT d.run_id AS id
FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS t (shard, id, vendor_message_id)
INNER JOIN discrepancies AS d
    ON
        t.shard = d.shard
        AND (t.id = d.message_id OR (d.message_id IS NULL AND t.vendor_message_id = d.vendor_message_id))
INNER JOIN runs AS r ON d.run_id = r.id
WHERE r.discrepancies_sha256 IS NULL
ORDER BY 1;

-- name: keep_run_digests
-- Keeps the digests of what a run found, and of its reports, as they were linked.
UPDATE runs
SET discrepancies_sha256 = $2, reports_sha256 = $3
WHERE id = $1 AND discrepancies_sha256 IS NULL;

-- name: purge_numbers
-- Puts pseudonyms for numbers wherever the messages that they belong to are named: one transaction with them, so
-- that both sides of every comparison always have the same.
WITH named AS (
    SELECT
        u.shard,
        u.id,
        u.vendor_message_id,
        u.phone,
        u.pseudonym
    FROM unnest($2::integer[], $3::uuid[], $4::text[], $5::text[], $6::text[]) AS u (
        shard, id, vendor_message_id, phone, pseudonym
    )
),

-- A report may stand under several ids.
standing AS (
    SELECT
        n.shard,
        n.id,
        n.phone,
        n.pseudonym
    FROM named AS n
    UNION
    SELECT
        ('x' || left(a.id::text, 8))::bit(32)::integer,
        a.id,
        n.phone,
        n.pseudonym
    FROM named AS n
    INNER JOIN reports AS r ON n.shard = r.shard AND n.id = r.message_id
    CROSS JOIN LATERAL unnest(r.also) AS a (id)
),

reported AS (
    UPDATE reports AS r
    SET phone = s.pseudonym, reason = replace(r.reason, s.phone, s.pseudonym)
    FROM standing AS s
    WHERE r.shard = s.shard AND r.message_id = s.id AND r.phone = s.phone
    RETURNING 1
),

superseded AS (
    UPDATE superseded_reports AS r
    SET phone = s.pseudonym, reason = replace(r.reason, s.phone, s.pseudonym)
    FROM standing AS s
    WHERE r.shard = s.shard AND r.message_id = s.id AND r.phone = s.phone
    RETURNING 1
),

lined AS (
    UPDATE lines AS l
    SET phone = n.pseudonym
    FROM named AS n
    WHERE l.shard = n.shard AND l.message_id = n.id AND l.phone = n.phone
    RETURNING 1
),

found AS (
    UPDATE discrepancies AS d
    SET phone = n.pseudonym
    FROM named AS n
    WHERE
        d.shard = n.shard
        AND (d.message_id = n.id OR d.message_id IS NULL)
        AND d.vendor_message_id = n.vendor_message_id
        AND d.phone = n.phone
    RETURNING 1
),

followed AS (
    UPDATE cases AS c
    SET phone = n.pseudonym
    FROM named AS n
    WHERE
        c.shard = n.shard
        AND c.vendor_message_id = n.vendor_message_id
        AND c.account = $1
        AND c.phone = n.phone
    RETURNING 1
),

came_to AS (
    UPDATE outcomes AS o
    SET phone = n.pseudonym
    FROM named AS n
    WHERE
        o.run_id IN (
            SELECT unnest(ARRAY[p.newest_run, p.closed_run])
            FROM periods AS p
            WHERE p.account = $1
        )
        AND o.shard = n.shard
        AND o.key = n.id
        AND o.phone = n.phone
    RETURNING 1
),

adjusted AS (
    UPDATE adjustments AS a
    SET phone = n.pseudonym
    FROM named AS n
    WHERE a.shard = n.shard AND a.key = n.id AND a.phone = n.phone
    RETURNING 1
),

credited AS (
    UPDATE credit_lines AS l
    SET phone = n.pseudonym, reason = replace(l.reason, n.phone, n.pseudonym)
    FROM named AS n
    WHERE l.account = $1 AND l.vendor_message_id = n.vendor_message_id AND l.phone = n.phone
    RETURNING 1
)

SELECT
    (SELECT count(*) FROM reported) AS reports,
    (SELECT count(*) FROM lined) AS lines,
    (SELECT count(*) FROM found) AS discrepancies,
    (SELECT count(*) FROM followed) AS cases,
    (SELECT count(*) FROM came_to) AS outcomes,
    (SELECT count(*) FROM adjusted) AS adjustments,
    (SELECT count(*) FROM credited) AS credits;

-- name: inbound_to_purge
-- Reads which inbound messages of an account, received from $2 to $3 and after a place in them, still have their
-- text, or with $7 their number.
SELECT
    i.shard,
    i.fingerprint,
    i.phone,
    i.received_at
FROM inbound AS i
WHERE
    i.account = $1
    AND i.received_at >= $2
    AND i.received_at < $3
    AND (i.received_at, i.fingerprint) > ($4, $5::bytea)
    AND CASE WHEN $7::boolean THEN i.phone !~ '[A-Za-z]' ELSE i.content <> '' END
ORDER BY i.received_at, i.fingerprint
LIMIT $6;

-- name: purge_inbound
-- Drops the texts of inbound messages, and their numbers where a pseudonym is given.
UPDATE inbound AS i
SET content = '', phone = coalesce(t.pseudonym, i.phone)
FROM unnest($1::integer[], $2::bytea[], $3::text[]) AS t (shard, fingerprint, pseudonym)
WHERE i.shard = t.shard AND i.fingerprint = t.fingerprint;

-- name: orphans_to_purge
-- Reads which orphans of an account from before $2, after a place in them, still have their number; held are
-- those that an unfinished dispute is about. Few: they are passed over again and again.
SELECT
    r.shard,
    r.message_id AS id,
    r.vendor_message_id,
    r.phone,
    r.received_at,
    r.fingerprint,
    EXISTS (
        SELECT 1
        FROM cases AS c
        WHERE
            c.shard = r.shard
            AND c.vendor_message_id = r.vendor_message_id
            AND c.account = r.account
            AND c.ended_at IS NULL
    ) AS held
FROM reports AS r
WHERE
    r.account = $1
    AND r.orphan
    AND r.received_at < $2
    AND (r.received_at, r.message_id, r.fingerprint) > ($3, $4::uuid, $5::bytea)
    AND r.phone !~ '[A-Za-z]'
ORDER BY r.received_at, r.message_id, r.fingerprint
LIMIT $6;

-- name: statements_to_purge
-- Reads statements of closed periods that ended before $2 in which numbers may be left; with $3 of any period.
SELECT s.id
FROM statements AS s
WHERE
    s.account = $1
    AND s.last_day < $2
    AND NOT s.numbers_purged
    AND (
        $3::boolean
        OR EXISTS (
            SELECT 1
            FROM periods AS p
            WHERE
                p.account = s.account
                AND p.first_day = s.first_day
                AND p.last_day = s.last_day
                AND p.closed_run IS NOT NULL
        )
    )
ORDER BY s.first_day, s.version;

-- name: lines_to_purge
-- Reads lines of a statement, after one, that still have a number; held are those that an unfinished dispute is
-- about.
SELECT
    l.shard,
    l.message_id AS id,
    l.vendor_message_id,
    l.phone,
    l.line,
    EXISTS (
        SELECT 1
        FROM cases AS c
        WHERE
            c.shard = l.shard
            AND c.vendor_message_id = l.vendor_message_id
            AND c.account = $2
            AND c.ended_at IS NULL
    ) AS held
FROM lines AS l
WHERE l.statement_id = $1 AND l.line > $3 AND l.phone !~ '[A-Za-z]'
ORDER BY l.line
LIMIT $4;

-- name: statement_purged
-- Notes that no number is left in a statement's lines.
UPDATE statements
SET numbers_purged = TRUE
WHERE id = $1;

-- name: numbers_were_purged
-- Says whether any number of an account was purged.
SELECT EXISTS (SELECT 1 FROM purges AS p WHERE p.account = $1 AND p.what IN ('numbers', 'erasure')) AS purged;

-- name: redact_new_lines
-- Gives the lines just imported for messages whose numbers were purged, in the ledger or in an earlier statement,
-- the same pseudonyms: their keys are still those of the numbers.
WITH known AS (
    SELECT
        l.line,
        l.shard,
        coalesce(
            (
                SELECT m.phone
                FROM messages AS m
                WHERE m.shard = l.shard AND m.id = l.message_id AND m.phone ~ '[A-Za-z]'
            ),
            (
                SELECT o.phone
                FROM lines AS o
                WHERE o.shard = l.shard AND o.message_id = l.message_id AND o.phone ~ '[A-Za-z]'
                LIMIT 1
            ),
            (
                SELECT r.phone
                FROM reports AS r
                WHERE r.shard = l.shard AND r.message_id = l.message_id AND r.phone ~ '[A-Za-z]'
                LIMIT 1
            )
        ) AS phone
    FROM lines AS l
    WHERE l.statement_id = $1 AND l.phone IS NOT NULL
)

UPDATE lines AS l
SET phone = k.phone
FROM known AS k
WHERE l.statement_id = $1 AND l.line = k.line AND l.shard = k.shard AND k.phone IS NOT NULL;

-- name: take_pseudonym_key
-- Keeps which key pseudonyms are made with; says which it is.
INSERT INTO pseudonym_keys AS k (one, fingerprint)
VALUES (TRUE, $1)
ON CONFLICT (one) DO UPDATE SET fingerprint = k.fingerprint
RETURNING k.fingerprint;

-- name: purges_to_link
-- Reads purges that no link has yet.
SELECT
    id,
    account,
    what,
    purged_at,
    purged_by,
    records,
    messages,
    content,
    touched
FROM purges
WHERE NOT linked
ORDER BY purged_at, id
LIMIT $1;

-- name: purges_linked
-- Marks purges as being in a link.
UPDATE purges
SET linked = TRUE
WHERE id = ANY($1::uuid[]);

-- name: purges_to_verify
-- Reads purges by id.
SELECT
    id,
    account,
    what,
    purged_at,
    purged_by,
    records,
    messages,
    content,
    touched
FROM purges
WHERE id = ANY($1::uuid[]);

-- name: kept_lines
-- Says what a statement's lines come to, and whether a purge names it.
SELECT
    k.lines,
    k.segments,
    p.purged
FROM (
    SELECT
        count(*) AS lines,
        coalesce(sum(l.segments), 0)::bigint AS segments
    FROM lines AS l
    WHERE l.statement_id = $1
) AS k
CROSS JOIN (SELECT EXISTS (SELECT 1 FROM purges AS p WHERE $1::uuid = ANY(p.touched)) AS purged) AS p;

-- name: kept_discrepancies
-- Says what a run's discrepancies come to, and whether a purge names it.
SELECT
    k.segments,
    k.amount,
    p.purged
FROM (
    SELECT
        coalesce(sum(d.segments), 0)::bigint AS segments,
        coalesce(sum(d.amount), 0) AS amount
    FROM discrepancies AS d
    WHERE d.run_id = $1
) AS k
CROSS JOIN (SELECT EXISTS (SELECT 1 FROM purges AS p WHERE $1::uuid = ANY(p.touched)) AS purged) AS p;

-- name: purged_since
-- Says which of a run and its statement had numbers purged.
SELECT p.purged_at
FROM purges AS p
WHERE $1::uuid = ANY(p.touched)
ORDER BY p.purged_at
LIMIT 1;
