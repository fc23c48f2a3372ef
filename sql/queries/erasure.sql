-- Erasing one number everywhere, on request.

-- name: add_erasure
-- Notes that a number is to be erased: by its pseudonym.
INSERT INTO erasures (id, pseudonym, requested_at, requested_by, found, worked_at)
VALUES ($1, $2, $3, $4, '{}', clock_timestamp());

-- name: erasure_goes_on
-- Notes what was found so far, and that somebody is at it.
UPDATE erasures
SET found = $2, worked_at = clock_timestamp()
WHERE id = $1 AND worked_at IS NOT NULL;

-- name: finish_erasure
-- Notes what was found; finished only if nothing is held.
UPDATE erasures
SET found = $2, held = $3, finished_at = CASE WHEN $3 = 0 THEN $4::timestamptz END, worked_at = NULL
WHERE id = $1;

-- name: erasures
-- Lists erasures, the newest first, after a time and id with a cursor; or reads the one of $3. One that nobody
-- has been at for $5 seconds was broken off.
SELECT
    id,
    pseudonym,
    requested_at,
    requested_by,
    finished_at,
    found,
    held,
    CASE
        WHEN finished_at IS NOT NULL THEN 'done'
        WHEN held > 0 THEN 'held'
        WHEN worked_at > clock_timestamp() - make_interval(secs => $5::float8) THEN 'under_way'
        ELSE 'broken_off'
    END AS state
FROM erasures
WHERE
    ($1::timestamptz IS NULL OR (requested_at, id) < ($1, $2::uuid))
    AND ($3::uuid IS NULL OR id = $3)
ORDER BY requested_at DESC, id DESC
LIMIT $4;

-- name: weigh_erasures
-- Counts numbers whose newest erasure broke off (nobody was at it for $1 seconds) or held something back. Erasures
-- are few: each is somebody's request.
SELECT
    count(*) FILTER (WHERE n.held = 0) AS broken_off,
    count(*) FILTER (WHERE n.held > 0) AS held
FROM (
    SELECT DISTINCT ON (e.pseudonym)
        e.finished_at,
        e.held,
        e.worked_at
    FROM erasures AS e
    ORDER BY e.pseudonym, e.requested_at DESC, e.id DESC
) AS n
WHERE
    n.finished_at IS NULL
    AND (n.held > 0 OR n.worked_at IS NULL OR n.worked_at <= clock_timestamp() - make_interval(secs => $1::float8));

-- name: messages_of_number
-- Reads messages to a number, after a place in them.
SELECT
    m.shard,
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.status
FROM messages AS m
WHERE m.phone = $1 AND (m.sent_at, m.id) > ($2, $3::uuid)
ORDER BY m.sent_at, m.id
LIMIT $4;

-- name: messages_quoting
-- Reads, of the next messages after a key, those whose words quote a number, and the last of all.
SELECT
    w.shard,
    w.id,
    w.account,
    w.vendor_message_id,
    w.phone,
    w.sent_at,
    w.status,
    w.hit
FROM (
    SELECT
        m.shard,
        m.id,
        m.account,
        m.vendor_message_id,
        m.phone,
        m.sent_at,
        m.status,
        position($4 IN concat_ws(' ', m.content, m.reason, m.reference, m.sign, m.template_id)) > 0 AS hit,
        row_number() OVER (ORDER BY m.shard DESC, m.id DESC) AS place
    FROM (
        SELECT *
        FROM messages AS n
        WHERE (n.shard, n.id) > ($1, $2::uuid)
        ORDER BY n.shard, n.id
        LIMIT $3
    ) AS m
) AS w
WHERE w.hit OR w.place = 1
ORDER BY w.shard, w.id;

-- name: erase_in_messages
-- Puts a pseudonym for a number in the words of messages.
UPDATE messages AS m
SET
    reason = replace(m.reason, $3, $4),
    reference = replace(m.reference, $3, $4),
    sign = replace(m.sign, $3, $4),
    template_id = replace(m.template_id, $3, $4)
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
WHERE m.shard = t.shard AND m.id = t.id;

-- name: reports_naming
-- Reads, of the next reports after a key, those to a number or whose words quote it, and the last of all.
SELECT
    w.shard,
    w.id,
    w.fingerprint,
    w.account,
    w.vendor_message_id,
    w.phone,
    w.hit
FROM (
    SELECT
        r.shard,
        r.message_id AS id,
        r.fingerprint,
        r.account,
        r.vendor_message_id,
        r.phone,
        r.phone = $5 OR coalesce(position($5 IN r.reason), 0) > 0 AS hit,
        row_number() OVER (ORDER BY r.shard DESC, r.message_id DESC, r.fingerprint DESC) AS place
    FROM (
        SELECT *
        FROM reports AS n
        WHERE (n.shard, n.message_id, n.fingerprint) > ($1, $2::uuid, $3::bytea)
        ORDER BY n.shard, n.message_id, n.fingerprint
        LIMIT $4
    ) AS r
) AS w
WHERE w.hit OR w.place = 1
ORDER BY w.shard, w.id, w.fingerprint;

-- name: erase_in_reports
-- Puts a pseudonym for a number in the words of reports.
UPDATE reports AS r
SET reason = replace(r.reason, $3, $4)
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
WHERE r.shard = t.shard AND r.message_id = t.id;

-- name: lines_naming
-- Reads, of the next statement lines after a key, those to a number, and the last of all.
SELECT
    w.statement_id,
    w.line,
    w.shard,
    w.id,
    w.account,
    w.vendor_message_id,
    w.phone,
    w.hit
FROM (
    SELECT
        l.statement_id,
        l.line,
        l.shard,
        l.message_id AS id,
        s.account,
        l.vendor_message_id,
        l.phone,
        coalesce(l.phone = $5, FALSE) AS hit,
        row_number() OVER (ORDER BY l.statement_id DESC, l.line DESC, l.shard DESC) AS place
    FROM (
        SELECT *
        FROM lines AS n
        WHERE (n.statement_id, n.line, n.shard) > ($1::uuid, $2, $3)
        ORDER BY n.statement_id, n.line, n.shard
        LIMIT $4
    ) AS l
    INNER JOIN statements AS s ON l.statement_id = s.id
) AS w
WHERE w.hit OR w.place = 1
ORDER BY w.statement_id, w.line, w.shard;

-- name: inbound_naming
-- Reads, of the next inbound messages after a key, those from a number or that quote it, and the last of all.
SELECT
    w.shard,
    w.fingerprint,
    w.phone,
    w.hit
FROM (
    SELECT
        i.shard,
        i.fingerprint,
        i.phone,
        i.phone = $4 OR position($4 IN i.content) > 0 OR coalesce(position($4 IN i.extension), 0) > 0 AS hit,
        row_number() OVER (ORDER BY i.shard DESC, i.fingerprint DESC) AS place
    FROM (
        SELECT *
        FROM inbound AS n
        WHERE (n.shard, n.fingerprint) > ($1, $2::bytea)
        ORDER BY n.shard, n.fingerprint
        LIMIT $3
    ) AS i
) AS w
WHERE w.hit OR w.place = 1
ORDER BY w.shard, w.fingerprint;

-- name: erase_in_inbound
-- Drops the texts of inbound messages, and puts a pseudonym for a number in the rest of them.
UPDATE inbound AS i
SET content = '', phone = replace(i.phone, $3, $4), extension = replace(i.extension, $3, $4)
FROM unnest($1::integer[], $2::bytea[]) AS t (shard, fingerprint)
WHERE i.shard = t.shard AND i.fingerprint = t.fingerprint;

-- name: records_naming
-- Reads, of the next records after a digest, those whose bytes hold a number, and the last of all.
SELECT
    w.digest,
    w.account,
    w.settled,
    w.hit
FROM (
    SELECT
        r.digest,
        r.account,
        b.settled_at IS NOT NULL AS settled,
        r.purge_id IS NULL
        AND (
            position(convert_to($3, 'UTF8') IN r.body) > 0
            OR position(convert_to($3, 'UTF8') IN r.query) > 0
            OR position($3 IN concat_ws(' ', r.headers, r.subject)) > 0
        ) AS hit,
        row_number() OVER (ORDER BY r.digest DESC) AS place
    FROM (
        SELECT *
        FROM records AS n
        WHERE n.digest > $1::bytea
        ORDER BY n.digest
        LIMIT $2
    ) AS r
    INNER JOIN batches AS b ON r.batch_id = b.id
) AS w
WHERE w.hit OR w.place = 1
ORDER BY w.digest;

-- name: erase_in_words
-- Puts a pseudonym for a number in the words that people and vendors left beside all that: tables of which none
-- is large, in one statement.
WITH quarantined AS (
    UPDATE quarantine
    SET reason = replace(reason, $1, $2)
    WHERE position($1 IN reason) > 0
    RETURNING 1
),

superseded AS (
    UPDATE superseded_reports
    SET phone = replace(phone, $1, $2), reason = replace(reason, $1, $2)
    WHERE phone = $1 OR position($1 IN reason) > 0
    RETURNING 1
),

submitted AS (
    UPDATE submissions
    SET reason = replace(reason, $1, $2)
    WHERE position($1 IN reason) > 0
    RETURNING 1
),

sent AS (
    UPDATE sends
    SET idempotency_key = replace(idempotency_key, $1, $2)
    WHERE position($1 IN idempotency_key) > 0
    RETURNING 1
),

followed AS (
    UPDATE cases
    SET note = replace(note, $1, $2), owner = replace(owner, $1, $2), phone = replace(phone, $1, $2)
    WHERE position($1 IN note) > 0 OR position($1 IN owner) > 0 OR position($1 IN phone) > 0
    RETURNING 1
),

changed AS (
    UPDATE case_changes
    SET note = replace(note, $1, $2), owner = replace(owner, $1, $2)
    WHERE position($1 IN note) > 0 OR position($1 IN owner) > 0
    RETURNING 1
),

credited AS (
    UPDATE credit_lines
    SET phone = replace(phone, $1, $2), reason = replace(reason, $1, $2), number = replace(number, $1, $2)
    WHERE position($1 IN phone) > 0 OR position($1 IN reason) > 0 OR position($1 IN number) > 0
    RETURNING 1
),

decided AS (
    UPDATE suspect_decisions
    SET note = replace(note, $1, $2)
    WHERE position($1 IN note) > 0
    RETURNING 1
),

worked AS (
    UPDATE jobs
    SET error = replace(error, $1, $2)
    WHERE position($1 IN error) > 0
    RETURNING 1
),

pulled AS (
    UPDATE pulls
    SET error = replace(error, $1, $2)
    WHERE position($1 IN error) > 0
    RETURNING 1
)

SELECT
    (SELECT count(*) FROM quarantined)
    + (SELECT count(*) FROM superseded)
    + (SELECT count(*) FROM submitted)
    + (SELECT count(*) FROM sent)
    + (SELECT count(*) FROM followed)
    + (SELECT count(*) FROM changed)
    + (SELECT count(*) FROM credited)
    + (SELECT count(*) FROM decided)
    + (SELECT count(*) FROM worked)
    + (SELECT count(*) FROM pulled) AS words;

-- name: reviews_quoting
-- Puts a pseudonym for a number in what vendors said on signs and templates.
WITH said AS (
    UPDATE review_results
    SET
        name = replace(name, $1, $2),
        content = replace(content, $1, $2),
        remark = replace(remark, $1, $2),
        reason = replace(reason, $1, $2)
    WHERE position($1 IN concat_ws(' ', name, content, remark, reason)) > 0
    RETURNING 1
),

folded AS (
    UPDATE reviews
    SET
        name = replace(name, $1, $2),
        content = replace(content, $1, $2),
        remark = replace(remark, $1, $2),
        reason = replace(reason, $1, $2)
    WHERE position($1 IN concat_ws(' ', name, content, remark, reason)) > 0
    RETURNING 1
)

SELECT (SELECT count(*) FROM said) + (SELECT count(*) FROM folded) AS reviews;
