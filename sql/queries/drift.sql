-- What vendors' documents look like, and how far they were read.

-- name: position
-- Reads up to which record of an account a reader has read.
SELECT
    p.received_at,
    p.digest
FROM positions AS p
WHERE p.reader = $1 AND p.account = $2;

-- name: records_after
-- Reads an account's records after a time and digest and before $4, the oldest first; not those without bytes.
SELECT
    r.digest,
    r.account,
    r.source,
    r.call,
    r.subject,
    r.received_at,
    r.deliveries,
    r.method,
    r.query,
    r.headers,
    r.body,
    r.peer
FROM records AS r
WHERE r.account = $1 AND (r.received_at, r.digest) > ($2, $3::bytea) AND r.received_at < $4
    AND r.purge_id IS NULL
ORDER BY r.received_at, r.digest
LIMIT $5;

-- name: advance_position
-- Keeps up to which record was read.
INSERT INTO positions (reader, account, received_at, digest)
VALUES ($1, $2, $3, $4)
ON CONFLICT (reader, account) DO UPDATE
SET
    received_at = excluded.received_at,
    digest = excluded.digest;

-- name: keep_features
-- Keeps what documents were seen to have. New, and drift: a code ($10) that the gateway does not know; a field or
-- another type of one, but null, later than a day after the document was seen first. Returns what drifted.
WITH given AS (
    SELECT
        t.document,
        t.feature,
        t.kind,
        t.known,
        t.first_seen_at,
        t.last_seen_at,
        t.seen,
        t.example,
        EXISTS (
            SELECT 1
            FROM document_features AS f
            WHERE
                f.account = $1
                AND f.document = t.document
                AND f.feature = t.feature
                AND f.kind <> 'null'
        ) AS of_another_type,
        (
            SELECT min(f.first_seen_at)
            FROM document_features AS f
            WHERE f.account = $1 AND f.document = t.document
        ) AS since
    FROM unnest(
        $2::text[],
        $3::text[],
        $4::text[],
        $5::boolean[],
        $6::timestamptz[],
        $7::timestamptz[],
        $8::bigint[],
        $9::bytea[]
    ) AS t (document, feature, kind, known, first_seen_at, last_seen_at, seen, example)
),

kept AS (
    INSERT INTO document_features AS f (
        account,
        document,
        feature,
        kind,
        known,
        drift,
        first_seen_at,
        last_seen_at,
        seen,
        example
    )
    SELECT
        $1,
        g.document,
        g.feature,
        g.kind,
        g.known,
        CASE
            WHEN g.feature = $10 THEN CASE WHEN NOT g.known THEN 'code' END
            WHEN g.kind = 'null' OR coalesce(g.first_seen_at <= g.since + interval '1 day', TRUE) THEN NULL
            WHEN g.of_another_type THEN 'type'
            ELSE 'field'
        END,
        g.first_seen_at,
        g.last_seen_at,
        g.seen,
        g.example
    FROM given AS g
    ON CONFLICT (account, document, feature, kind) DO UPDATE
    SET
        known = excluded.known,
        last_seen_at = greatest(f.last_seen_at, excluded.last_seen_at),
        seen = f.seen + excluded.seen
    RETURNING f.document, f.feature, f.kind, f.drift, f.example, f.seen
)

SELECT
    k.document,
    k.feature,
    k.kind,
    k.drift AS what,
    k.example
FROM kept AS k
LEFT JOIN document_features AS b
    ON b.account = $1 AND k.document = b.document AND k.feature = b.feature AND k.kind = b.kind
WHERE k.drift IS NOT NULL AND b.account IS NULL;

-- name: newest_drift
-- Says how much of an account's documents drifted since $2, and what did last.
SELECT
    count(*) AS features,
    (array_agg(f.document ORDER BY f.first_seen_at DESC, f.document, f.feature, f.kind))[1] AS document,
    (array_agg(f.feature ORDER BY f.first_seen_at DESC, f.document, f.feature, f.kind))[1] AS feature,
    (array_agg(f.kind ORDER BY f.first_seen_at DESC, f.document, f.feature, f.kind))[1] AS kind
FROM document_features AS f
WHERE f.account = $1 AND f.drift IS NOT NULL AND f.first_seen_at >= $2;

-- name: list_features
-- Lists what vendors' documents were seen to have: what drifted, or ($2) all; after a place with a cursor.
SELECT
    f.account,
    f.document,
    f.feature,
    f.kind,
    f.known,
    f.drift,
    f.first_seen_at,
    f.last_seen_at,
    f.seen,
    f.example
FROM document_features AS f
WHERE
    f.account = ANY($1::text[])
    AND ($2::boolean OR f.drift IS NOT NULL)
    AND (
        $3::timestamptz IS NULL
        OR (f.first_seen_at, f.account, f.document, f.feature, f.kind) < ($3, $4::text, $5::text, $6::text, $7::text)
    )
ORDER BY f.first_seen_at DESC, f.account DESC, f.document DESC, f.feature DESC, f.kind DESC
LIMIT $8;
