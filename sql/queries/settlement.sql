-- Folding reports into the state of messages, and results into the state of signs and templates.

-- name: add_reports
-- Adds reports to the set; a word known already changes nothing. Marks those whose message is unknown. One for a
-- message, or an orphan, whose number was purged gets the same pseudonym, and its record is purged soon.
WITH given AS MATERIALIZED (
    SELECT
        t.shard,
        t.message_id,
        t.fingerprint,
        t.account,
        t.vendor_message_id,
        coalesce(p.phone, t.phone) AS phone,
        t.status,
        t.vendor_code,
        replace(t.reason, t.phone, coalesce(p.phone, t.phone)) AS reason,
        t.reported_at,
        t.received_at,
        t.source,
        t.digest,
        t.alternate,
        string_to_array(t.also, ' ')::uuid[] AS also,
        t.billed_segments,
        t.billed_price,
        t.billed_amount,
        t.billed_currency,
        string_to_array(t.doubts, ' ') AS doubts,
        coalesce(t.reported_at, t.received_at) + make_interval(secs => t.slack_seconds) AS sent_by,
        m.id IS NULL AS orphan,
        p.phone IS NOT NULL AS late
    FROM unnest(
        $1::integer[],
        $2::uuid[],
        $3::bytea[],
        $4::text[],
        $5::text[],
        $6::text[],
        $7::text[],
        $8::text[],
        $9::text[],
        $10::timestamptz[],
        $11::timestamptz[],
        $12::text[],
        $13::bytea[],
        $14::boolean[],
        $15::text[],
        $16::integer[],
        $17::numeric[],
        $18::numeric[],
        $19::text[],
        $20::text[],
        $21::float8[]
    ) AS t (
        shard,
        message_id,
        fingerprint,
        account,
        vendor_message_id,
        phone,
        status,
        vendor_code,
        reason,
        reported_at,
        received_at,
        source,
        digest,
        alternate,
        also,
        billed_segments,
        billed_price,
        billed_amount,
        billed_currency,
        doubts,
        slack_seconds
    )
    LEFT JOIN LATERAL (
        SELECT
            k.id,
            k.phone
        FROM messages AS k
        WHERE k.shard = t.shard AND k.id = t.message_id
        LIMIT 1 -- and no join: it could read every message that there is
    ) AS m ON TRUE
    LEFT JOIN LATERAL (
        SELECT m.phone
        WHERE m.phone ~ '[A-Za-z]'
        UNION ALL
        (
            SELECT k.phone
            FROM reports AS k
            WHERE m.id IS NULL AND k.shard = t.shard AND k.message_id = t.message_id AND k.phone ~ '[A-Za-z]'
            LIMIT 1
        )
    ) AS p ON TRUE
),

late AS (
    INSERT INTO late_records (digest, account)
    SELECT DISTINCT
        g.digest,
        g.account
    FROM given AS g
    WHERE g.late
    ORDER BY g.digest
    ON CONFLICT (digest) DO NOTHING
)

INSERT INTO reports (
    shard,
    message_id,
    fingerprint,
    account,
    vendor_message_id,
    phone,
    status,
    vendor_code,
    reason,
    reported_at,
    received_at,
    source,
    digest,
    alternate,
    also,
    billed_segments,
    billed_price,
    billed_amount,
    billed_currency,
    doubts,
    sent_by,
    left_out,
    orphan
)
SELECT
    g.shard,
    g.message_id,
    g.fingerprint,
    g.account,
    g.vendor_message_id,
    g.phone,
    g.status,
    g.vendor_code,
    g.reason,
    g.reported_at,
    g.received_at,
    g.source,
    g.digest,
    g.alternate,
    g.also,
    g.billed_segments,
    g.billed_price,
    g.billed_amount,
    g.billed_currency,
    g.doubts,
    g.sent_by,
    g.doubts IS NOT NULL,
    g.orphan
FROM given AS g
ON CONFLICT (shard, message_id, fingerprint) DO NOTHING;

-- name: lock_messages
-- Locks messages in one order, so that the fold after it sees every report committed before the lock.
-- Returns those that are known: only they may be folded under it; and when each was sent, in seconds since 1970.
SELECT
    m.shard,
    m.id,
    date_part('epoch', m.sent_at) AS sent
FROM messages AS m
INNER JOIN
    (SELECT DISTINCT u.shard, u.id FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)) AS t
    ON m.shard = t.shard AND m.id = t.id
ORDER BY m.shard, m.id
FOR NO KEY UPDATE OF m;

-- name: settle_messages
-- Folds all reports of the given messages into their state; run it after lock_messages, in one transaction,
-- for the messages that it returned. Only final reports decide: the earliest by
-- the vendor's time stands (without a time: last; a tie goes to 'delivered', then to the fingerprint, so that
-- arrival order never matters). A push that falls short of trust is left out; of one that all answers to our
-- questions deny is told, for it may be forged.
WITH touched AS (
    SELECT
        u.shard,
        u.id,
        u.sent
    FROM unnest($1::integer[], $2::uuid[], $3::float8[]) AS u (shard, id, sent)
),

-- Materialized and by the whole key, so that the many orphans of other messages are never looked at.
known AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.status,
        r.vendor_code,
        r.reason,
        r.reported_at,
        r.source,
        r.orphan,
        r.also,
        r.left_out,
        CASE
            WHEN r.verdict IS NOT NULL THEN r.verdict = 'rejected'
            ELSE r.doubts IS NOT NULL OR coalesce(t.sent > date_part('epoch', r.sent_by), FALSE)
        END AS suspect
    FROM touched AS t
    INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id
),

final AS (
    SELECT
        k.shard,
        k.message_id,
        k.fingerprint,
        k.status,
        k.vendor_code,
        k.reason,
        k.reported_at,
        min(k.status) OVER message <> max(k.status) OVER message AS contradicted,
        coalesce(
            k.status NOT IN (
                min(k.status) FILTER (WHERE k.source = 'query') OVER message,
                max(k.status) FILTER (WHERE k.source = 'query') OVER message
            )
            AND k.source = 'push',
            FALSE
        ) AS denied
    FROM known AS k
    WHERE k.status IN ('delivered', 'failed') AND NOT k.suspect
    WINDOW message AS (PARTITION BY k.shard, k.message_id)
),

folded AS (
    SELECT DISTINCT ON (f.shard, f.message_id)
        f.shard,
        f.message_id,
        f.status,
        f.vendor_code,
        f.reason,
        f.reported_at,
        f.contradicted
    FROM final AS f
    ORDER BY f.shard, f.message_id, f.reported_at NULLS LAST, f.status, f.fingerprint
),

settled AS (
    UPDATE messages AS m
    SET
        status = f.status,
        vendor_code = f.vendor_code,
        reason = f.reason,
        reported_at = f.reported_at,
        contradicted = f.contradicted
    FROM folded AS f
    WHERE
        m.shard = f.shard
        AND m.id = f.message_id
        AND (m.status, m.vendor_code, m.reason, m.reported_at, m.contradicted)
        IS DISTINCT FROM (f.status, f.vendor_code, f.reason, f.reported_at, f.contradicted)
    RETURNING m.shard, m.id
),

awaited AS (
    DELETE FROM awaiting AS a
    USING folded AS f
    WHERE a.shard = f.shard AND a.message_id = f.message_id
),

joined AS (
    UPDATE reports AS r
    SET
        orphan = FALSE,
        left_out = k.suspect
    FROM known AS k
    WHERE
        k.orphan
        AND r.shard = k.shard
        AND r.message_id = k.message_id
        AND r.fingerprint = k.fingerprint
)

SELECT
    (SELECT count(*) FROM settled) AS settled,
    (SELECT coalesce(bool_or(k.also IS NOT NULL), FALSE) FROM known AS k) AS known_by_more,
    (SELECT coalesce(bool_or(k.suspect OR k.left_out), FALSE) FROM known AS k)
    OR (SELECT coalesce(bool_or(f.denied), FALSE) FROM final AS f) AS doubted;

-- name: settle_plain
-- Adds final reports that nothing is held against, one for each message, in the order of their keys, and folds
-- each into its message where it is the first and only one: then it is the fold. What they have in common ($11 to
-- $15) comes once, and each names its place there. Returns those left to add_reports and settle_messages: of a
-- message that is unknown, purged or in another state, reported before, or suspect. If there are none, the
-- batches $16 are settled.
SELECT
    s.shard,
    s.message_id
FROM settle_plain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) AS s;

-- name: join_alternates
-- Says of reports that stand under several ids that none is an orphan, for one of the ids is a message's; run
-- it after settle_messages for the same messages.
WITH standing AS (
    SELECT DISTINCT
        ('x' || left(a.id::text, 8))::bit(32)::integer AS shard,
        a.id,
        r.fingerprint
    FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
    INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id
    CROSS JOIN LATERAL unnest(r.also) AS a (id)
)

UPDATE reports AS r
SET orphan = FALSE
FROM standing AS s
WHERE r.shard = s.shard AND r.message_id = s.id AND r.fingerprint = s.fingerprint AND r.orphan;

-- name: joinable_orphans
-- Finds messages that have come to be known for reports that came before them.
SELECT DISTINCT r.shard, r.message_id
FROM reports AS r
INNER JOIN messages AS m ON r.shard = m.shard AND r.message_id = m.id
WHERE r.orphan
ORDER BY r.shard, r.message_id
LIMIT $1;

-- name: joinable_orphans_of
-- Finds which of the given, newly known messages have reports that came before them: orphans, or under
-- another id of theirs a message's already.
SELECT
    t.shard,
    t.id AS message_id
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
CROSS JOIN LATERAL (
    SELECT 1
    FROM reports AS r
    WHERE r.shard = t.shard AND r.message_id = t.id
    LIMIT 1 -- and no join: it would read every orphan that there is
) AS early;

-- name: add_inbound
-- Adds inbound messages; one known already changes nothing, but for a vendor's id that it lacked (of several
-- the smallest, so that arrival order never matters).
INSERT INTO inbound AS i (
    shard,
    fingerprint,
    account,
    phone,
    content,
    sent_at,
    received_at,
    extension,
    vendor_message_id,
    source,
    digest
)
SELECT
    t.shard,
    t.fingerprint,
    t.account,
    t.phone,
    t.content,
    t.sent_at,
    t.received_at,
    t.extension,
    t.vendor_message_id,
    t.source,
    t.digest
FROM unnest(
    $1::integer[],
    $2::bytea[],
    $3::text[],
    $4::text[],
    $5::text[],
    $6::timestamptz[],
    $7::timestamptz[],
    $8::text[],
    $9::text[],
    $10::text[],
    $11::bytea[]
) AS t (
    shard,
    fingerprint,
    account,
    phone,
    content,
    sent_at,
    received_at,
    extension,
    vendor_message_id,
    source,
    digest
)
ON CONFLICT (shard, fingerprint) DO UPDATE
SET vendor_message_id = least(i.vendor_message_id COLLATE "C", excluded.vendor_message_id)
WHERE i.vendor_message_id IS DISTINCT FROM least(i.vendor_message_id COLLATE "C", excluded.vendor_message_id);

-- name: add_review_results
-- Adds words on signs and templates to the set; one known already changes nothing.
INSERT INTO review_results (
    account,
    kind,
    vendor_id,
    fingerprint,
    status,
    vendor_code,
    name,
    content,
    remark,
    reason,
    created_at,
    updated_at,
    received_at,
    source,
    digest
)
SELECT
    t.account,
    t.kind,
    t.vendor_id,
    t.fingerprint,
    t.status,
    t.vendor_code,
    t.name,
    t.content,
    t.remark,
    t.reason,
    t.created_at,
    t.updated_at,
    t.received_at,
    t.source,
    t.digest
FROM unnest(
    $1::text[],
    $2::text[],
    $3::text[],
    $4::bytea[],
    $5::text[],
    $6::text[],
    $7::text[],
    $8::text[],
    $9::text[],
    $10::text[],
    $11::timestamptz[],
    $12::timestamptz[],
    $13::timestamptz[],
    $14::text[],
    $15::bytea[]
) AS t (
    account,
    kind,
    vendor_id,
    fingerprint,
    status,
    vendor_code,
    name,
    content,
    remark,
    reason,
    created_at,
    updated_at,
    received_at,
    source,
    digest
)
ON CONFLICT (account, kind, vendor_id, fingerprint) DO NOTHING;

-- name: add_balances
-- Adds readings of what accounts have left; one known already changes nothing.
INSERT INTO balances (account, kind, digest, read_at, amount, currency, call)
SELECT t.account, t.kind, t.digest, t.read_at, t.amount, t.currency, t.call
FROM unnest(
    $1::text[],
    $2::text[],
    $3::bytea[],
    $4::timestamptz[],
    $5::numeric[],
    $6::text[],
    $7::text[]
) AS t (account, kind, digest, read_at, amount, currency, call)
ON CONFLICT (account, kind, digest) DO NOTHING;

-- name: know_reviews
-- Makes sure that a row stands for each sign or template, so that it can be locked.
INSERT INTO reviews (account, kind, vendor_id, status, next_poll_at)
SELECT DISTINCT t.account, t.kind, t.vendor_id, 'pending', $4::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[]) AS t (account, kind, vendor_id)
ORDER BY t.account, t.kind, t.vendor_id
ON CONFLICT (account, kind, vendor_id) DO NOTHING;

-- name: lock_reviews
-- Locks reviews in one order; the fold after it sees every result committed before the lock.
SELECT r.vendor_id
FROM reviews AS r
INNER JOIN
    (
        SELECT DISTINCT u.account, u.kind, u.vendor_id
        FROM unnest($1::text[], $2::text[], $3::text[]) AS u (account, kind, vendor_id)
    ) AS t
    ON r.account = t.account AND r.kind = t.kind AND r.vendor_id = t.vendor_id
ORDER BY r.account, r.kind, r.vendor_id
FOR UPDATE OF r;

-- name: settle_reviews
-- Folds all words on the given signs and templates into their state; run it after lock_reviews.
-- The newest by the vendor's own update time stands: a corrected sign is submitted again under its id.
-- At one time a decision stands before pending, an unknown status never decides. Deleted stands before
-- everything: an id is not used again. What it was, the newest word with a name then says.
WITH touched AS (
    SELECT DISTINCT u.account, u.kind, u.vendor_id
    FROM unnest($1::text[], $2::text[], $3::text[]) AS u (account, kind, vendor_id)
),

folded AS (
    SELECT DISTINCT ON (r.account, r.kind, r.vendor_id)
        r.account,
        r.kind,
        r.vendor_id,
        r.status,
        r.vendor_code,
        r.name,
        r.content,
        r.remark,
        r.reason,
        r.created_at,
        r.updated_at
    FROM touched AS t
    INNER JOIN review_results AS r
        ON t.account = r.account AND t.kind = r.kind AND t.vendor_id = r.vendor_id
    ORDER BY
        r.account,
        r.kind,
        r.vendor_id,
        r.status <> 'deleted',
        r.status = 'unknown',
        r.updated_at DESC NULLS LAST,
        r.status = 'pending',
        r.status DESC,
        r.fingerprint
),

described AS (
    SELECT DISTINCT ON (r.account, r.kind, r.vendor_id)
        r.account,
        r.kind,
        r.vendor_id,
        r.name,
        r.content,
        r.remark,
        r.created_at
    FROM folded AS f
    INNER JOIN review_results AS r
        ON f.account = r.account AND f.kind = r.kind AND f.vendor_id = r.vendor_id
    WHERE f.status = 'deleted' AND r.name IS NOT NULL
    ORDER BY
        r.account,
        r.kind,
        r.vendor_id,
        r.updated_at DESC NULLS LAST,
        r.fingerprint
)

UPDATE reviews AS v
SET
    status = f.status,
    vendor_code = f.vendor_code,
    name = coalesce(f.name, d.name),
    content = coalesce(f.content, d.content),
    remark = coalesce(f.remark, d.remark),
    reason = f.reason,
    created_at = coalesce(f.created_at, d.created_at),
    updated_at = f.updated_at,
    next_poll_at = CASE
        WHEN f.status NOT IN ('approved', 'rejected', 'deleted')
            THEN coalesce(v.next_poll_at, $4::timestamptz)
    END,
    polls = CASE WHEN f.status NOT IN ('approved', 'rejected', 'deleted') THEN v.polls ELSE 0 END
FROM folded AS f
LEFT JOIN described AS d
    ON f.account = d.account AND f.kind = d.kind AND f.vendor_id = d.vendor_id
WHERE v.account = f.account AND v.kind = f.kind AND v.vendor_id = f.vendor_id;

-- name: quarantine
-- Keeps why a record, or some rows of it, could not be understood.
INSERT INTO quarantine (digest, account, received_at, quarantined_at, reason)
SELECT t.digest, t.account, t.received_at, $5, t.reason
FROM unnest($1::bytea[], $2::text[], $3::timestamptz[], $4::text[]) AS t (digest, account, received_at, reason)
ON CONFLICT (digest) DO UPDATE
SET reason = excluded.reason, quarantined_at = excluded.quarantined_at
WHERE quarantine.reason <> excluded.reason;

-- name: release
-- Lets records out of quarantine that are understood now.
DELETE FROM quarantine
WHERE digest = ANY($1::bytea[]);

-- name: settlement_behind
-- Says for how many seconds the oldest unsettled batch has waited, by the database's clock.
SELECT coalesce(greatest(extract(EPOCH FROM clock_timestamp() - min(b.recorded_at)), 0), 0)::float8 AS seconds
FROM batches AS b
WHERE b.settled_at IS NULL;

-- name: records_of_messages
-- Names the records that the reports of some messages came in.
SELECT DISTINCT r.digest
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id
ORDER BY r.digest;
