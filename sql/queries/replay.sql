-- Replay: what today's parsers make of stored bytes, held against what is there.

-- name: replay_tables
-- Makes the working tables of this connection, empty: what was parsed, and what differs.
CREATE TEMPORARY TABLE IF NOT EXISTS replay_found (what text NOT NULL, key bytea NOT NULL);
CREATE TEMPORARY TABLE IF NOT EXISTS replay_records (digest bytea NOT NULL);
CREATE TEMPORARY TABLE IF NOT EXISTS replay_changed (digest bytea NOT NULL PRIMARY KEY);
CREATE TEMPORARY TABLE IF NOT EXISTS replay_added (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    status text NOT NULL,
    vendor_code text NOT NULL,
    reason text,
    reported_at timestamptz,
    source text NOT NULL,
    doubts text [],
    sent_by timestamptz,
    digest bytea NOT NULL,
    PRIMARY KEY (shard, message_id, fingerprint)
);
CREATE TEMPORARY TABLE IF NOT EXISTS replay_removed (
    what text NOT NULL,
    key bytea NOT NULL,
    digest bytea NOT NULL,
    shard integer,
    message_id uuid,
    PRIMARY KEY (what, key)
);
CREATE INDEX IF NOT EXISTS replay_removed_digest_idx ON replay_removed (digest);
TRUNCATE replay_found, replay_records, replay_changed, replay_added, replay_removed;

-- name: records_to_replay
-- Reads settled records of an account that still have their bytes, received from $2 to $3 and after a place in
-- them; with $7 those outside of that instead.
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
    r.peer,
    q.reason AS quarantined
FROM records AS r
INNER JOIN batches AS b ON r.batch_id = b.id AND b.settled_at IS NOT NULL
LEFT JOIN quarantine AS q ON r.digest = q.digest
WHERE
    r.account = $1
    AND (
        ($2::timestamptz IS NULL OR r.received_at >= $2) AND ($3::timestamptz IS NULL OR r.received_at < $3)
    ) <> $7::boolean
    AND (r.received_at, r.digest) > ($4, $5::bytea)
    AND r.purge_id IS NULL
ORDER BY r.received_at, r.digest
LIMIT $6;

-- name: count_purged_records
-- Counts the records of some accounts whose bytes are gone.
SELECT count(*)
FROM records AS r
WHERE
    r.account = ANY($1::text[])
    AND ($2::timestamptz IS NULL OR r.received_at >= $2)
    AND ($3::timestamptz IS NULL OR r.received_at < $3)
    AND r.purge_id IS NOT NULL;

-- name: replay_add_records
-- Notes records as parsed again.
INSERT INTO replay_records (digest)
SELECT unnest($1::bytea[]);

-- name: replay_add_found
-- Notes what records were understood as.
INSERT INTO replay_found (what, key)
SELECT t.what, t.key
FROM unnest($1::text[], $2::bytea[]) AS t (what, key);

-- name: replay_change
-- Notes records that change something.
INSERT INTO replay_changed (digest)
SELECT unnest($1::bytea[])
ON CONFLICT (digest) DO NOTHING;

-- name: known_reports
-- Says which reports are there.
SELECT
    r.shard,
    r.message_id,
    r.fingerprint
FROM unnest($1::integer[], $2::uuid[], $3::bytea[]) AS t (shard, message_id, fingerprint)
INNER JOIN reports AS r ON t.shard = r.shard AND t.message_id = r.message_id AND t.fingerprint = r.fingerprint;

-- name: replay_add_reports
-- Notes reports that are not there.
INSERT INTO replay_added (
    shard,
    message_id,
    fingerprint,
    account,
    vendor_message_id,
    status,
    vendor_code,
    reason,
    reported_at,
    source,
    doubts,
    sent_by,
    digest
)
SELECT
    t.shard,
    t.message_id,
    t.fingerprint,
    t.account,
    t.vendor_message_id,
    t.status,
    t.vendor_code,
    t.reason,
    t.reported_at,
    t.source,
    string_to_array(t.doubts, ' '),
    coalesce(t.reported_at, t.received_at) + make_interval(secs => t.slack_seconds),
    t.digest
FROM unnest(
    $1::integer[],
    $2::uuid[],
    $3::bytea[],
    $4::text[],
    $5::text[],
    $6::text[],
    $7::text[],
    $8::text[],
    $9::timestamptz[],
    $10::timestamptz[],
    $11::text[],
    $12::bytea[],
    $13::text[],
    $14::float8[]
) AS t (
    shard,
    message_id,
    fingerprint,
    account,
    vendor_message_id,
    status,
    vendor_code,
    reason,
    reported_at,
    received_at,
    source,
    digest,
    doubts,
    slack_seconds
)
ON CONFLICT (shard, message_id, fingerprint) DO NOTHING
RETURNING digest;

-- name: replay_missing_inbound
-- Finds the inbound messages that are not there.
SELECT t.digest
FROM unnest($1::integer[], $2::bytea[], $3::bytea[]) AS t (shard, fingerprint, digest)
WHERE NOT EXISTS (SELECT 1 FROM inbound AS i WHERE i.shard = t.shard AND i.fingerprint = t.fingerprint);

-- name: replay_missing_reviews
-- Finds the words on signs and templates that are not there.
SELECT t.digest
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) AS t (
    account, kind, vendor_id, fingerprint, digest
)
WHERE NOT EXISTS (
    SELECT 1
    FROM review_results AS r
    WHERE
        r.account = t.account
        AND r.kind = t.kind
        AND r.vendor_id = t.vendor_id
        AND r.fingerprint = t.fingerprint
);

-- name: replay_missing_balances
-- Finds the balances that are not there.
SELECT t.digest
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS t (account, kind, digest)
WHERE NOT EXISTS (
    SELECT 1
    FROM balances AS b
    WHERE b.account = t.account AND b.kind = t.kind AND b.digest = t.digest
);

-- name: doubtful_submissions
-- Says which submissions are in doubt.
SELECT s.id
FROM submissions AS s
WHERE s.id = ANY($1::uuid[]) AND s.state IN ('calling', 'indeterminate');

-- name: replay_find_removed
-- Finds what was made of the records that were parsed again and is made of none of them any more.
WITH found AS (
    SELECT DISTINCT
        f.what,
        f.key
    FROM replay_found AS f
),

made AS (
    SELECT
        'report' AS what,
        uuid_send(r.message_id) || r.fingerprint AS key,
        r.digest,
        r.shard,
        r.message_id
    FROM reports AS r
    WHERE r.account = ANY($1::text[])
    UNION ALL
    SELECT
        'inbound',
        int4send(i.shard) || i.fingerprint,
        i.digest,
        NULL,
        NULL
    FROM inbound AS i
    WHERE i.account = ANY($1::text[])
    UNION ALL
    SELECT
        'review',
        convert_to(concat_ws(E'\n', v.account, v.kind, v.vendor_id), 'UTF8') || v.fingerprint,
        v.digest,
        NULL,
        NULL
    FROM review_results AS v
    WHERE v.account = ANY($1::text[])
    UNION ALL
    SELECT
        'balance',
        convert_to(concat_ws(E'\n', b.account, b.kind), 'UTF8') || b.digest,
        b.digest,
        NULL,
        NULL
    FROM balances AS b
    WHERE b.account = ANY($1::text[])
)

INSERT INTO replay_removed (what, key, digest, shard, message_id)
SELECT
    m.what,
    m.key,
    m.digest,
    m.shard,
    m.message_id
FROM made AS m
INNER JOIN replay_records AS p ON m.digest = p.digest
LEFT JOIN found AS f ON m.what = f.what AND m.key = f.key
WHERE f.key IS NULL
ON CONFLICT (what, key) DO NOTHING;

-- name: replay_still_said
-- Keeps what other records say too.
DELETE FROM replay_removed AS d
USING unnest($1::text[], $2::bytea[]) AS t (what, key)
WHERE d.what = t.what AND d.key = t.key;

-- name: replay_changed_removed
-- Notes the records that what is gone came from as changing something.
INSERT INTO replay_changed (digest)
SELECT DISTINCT d.digest
FROM replay_removed AS d
ON CONFLICT (digest) DO NOTHING;

-- name: replay_counts
-- Counts what differs.
SELECT
    (SELECT count(*) FROM replay_changed) AS changed,
    (SELECT count(*) FROM replay_added) AS reports_added,
    (SELECT count(*) FROM replay_removed AS d WHERE d.what = 'report') AS reports_removed,
    (SELECT count(*) FROM replay_removed AS d WHERE d.what <> 'report') AS others_removed;

-- name: replay_states
-- Reads which messages' states change, and how: the fold of their reports as they will be (settle_messages).
WITH touched AS (
    SELECT
        a.shard,
        a.message_id
    FROM replay_added AS a
    UNION
    SELECT
        d.shard,
        d.message_id
    FROM replay_removed AS d
    WHERE d.what = 'report'
),

said AS (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.status,
        r.reported_at,
        r.verdict,
        r.doubts,
        r.sent_by
    FROM touched AS t
    INNER JOIN reports AS r ON t.shard = r.shard AND t.message_id = r.message_id
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM replay_removed AS d
            WHERE d.what = 'report' AND d.key = uuid_send(r.message_id) || r.fingerprint
        )
    UNION ALL
    SELECT
        a.shard,
        a.message_id,
        a.fingerprint,
        a.status,
        a.reported_at,
        NULL,
        a.doubts,
        a.sent_by
    FROM replay_added AS a
),

final AS (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.status,
        s.reported_at
    FROM said AS s
    INNER JOIN messages AS m ON s.shard = m.shard AND s.message_id = m.id
    WHERE
        s.status IN ('delivered', 'failed')
        AND NOT CASE
            WHEN s.verdict IS NOT NULL THEN s.verdict = 'rejected'
            ELSE s.doubts IS NOT NULL OR coalesce(m.sent_at > s.sent_by, FALSE)
        END
),

folded AS (
    SELECT DISTINCT ON (f.shard, f.message_id)
        f.shard,
        f.message_id,
        f.status
    FROM final AS f
    ORDER BY f.shard, f.message_id, f.reported_at ASC NULLS LAST, f.status, f.fingerprint
),

changing AS (
    SELECT
        m.id,
        m.account,
        m.vendor_message_id,
        m.sent_at,
        m.segments,
        m.status AS status_from,
        coalesce(
            f.status, CASE WHEN m.status IN ('delivered', 'failed') THEN 'submitted' ELSE m.status END
        ) AS status_to
    FROM touched AS t
    INNER JOIN messages AS m ON t.shard = m.shard AND t.message_id = m.id
    LEFT JOIN folded AS f ON t.shard = f.shard AND t.message_id = f.message_id
)

SELECT
    c.id,
    c.account,
    c.vendor_message_id,
    c.sent_at,
    c.segments,
    c.status_from,
    c.status_to
FROM changing AS c
WHERE c.status_from <> c.status_to
ORDER BY c.account, c.sent_at, c.id;

-- name: replay_reports
-- Reads which reports appear and which vanish.
SELECT
    'appears' AS change,
    a.account,
    a.vendor_message_id,
    a.status,
    a.vendor_code,
    a.reported_at,
    a.digest
FROM replay_added AS a
UNION ALL
SELECT
    'vanishes',
    r.account,
    r.vendor_message_id,
    r.status,
    r.vendor_code,
    r.reported_at,
    r.digest
FROM replay_removed AS d
INNER JOIN reports AS r
    ON d.shard = r.shard AND d.message_id = r.message_id AND d.key = uuid_send(r.message_id) || r.fingerprint
WHERE d.what = 'report'
ORDER BY 2, 3, 1, 4, 7;

-- name: changed_records
-- Reads the next records that change something, after a digest.
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
FROM replay_changed AS c
INNER JOIN records AS r ON c.digest = r.digest
WHERE c.digest > $1::bytea AND r.purge_id IS NULL
ORDER BY c.digest
LIMIT $2;

-- name: supersede_reports
-- Takes the reports out of the set that some records are not read as any more, and keeps them beside it.
WITH gone AS (
    DELETE FROM reports AS r
    USING replay_removed AS d
    WHERE
        d.what = 'report'
        AND d.digest = ANY($1::bytea[])
        AND r.shard = d.shard
        AND r.message_id = d.message_id
        AND uuid_send(r.message_id) || r.fingerprint = d.key
    RETURNING r.*
),

kept AS (
    INSERT INTO superseded_reports (
        shard,
        message_id,
        fingerprint,
        digest,
        replay_id,
        account,
        vendor_message_id,
        phone,
        status,
        vendor_code,
        reason,
        reported_at,
        received_at,
        source,
        billed_segments,
        billed_price,
        billed_amount,
        billed_currency
    )
    SELECT
        g.shard,
        g.message_id,
        g.fingerprint,
        g.digest,
        $2,
        g.account,
        g.vendor_message_id,
        g.phone,
        g.status,
        g.vendor_code,
        g.reason,
        g.reported_at,
        g.received_at,
        g.source,
        g.billed_segments,
        g.billed_price,
        g.billed_amount,
        g.billed_currency
    FROM gone AS g
    ON CONFLICT (shard, message_id, fingerprint, digest) DO NOTHING
),

-- What people decided on them stays.
unsuspected AS (
    DELETE FROM suspects AS s
    USING gone AS g
    WHERE s.shard = g.shard AND s.message_id = g.message_id AND s.fingerprint = g.fingerprint
)

SELECT DISTINCT
    g.shard,
    g.message_id
FROM gone AS g;

-- name: drop_inbound
-- Takes out the inbound messages that some records are not read as any more.
DELETE FROM inbound AS i
USING replay_removed AS d
WHERE d.what = 'inbound' AND d.digest = ANY($1::bytea[]) AND int4send(i.shard) || i.fingerprint = d.key;

-- name: drop_balances
-- Takes out the balances that some records are not read as any more.
DELETE FROM balances AS b
USING replay_removed AS d
WHERE
    d.what = 'balance'
    AND d.digest = ANY($1::bytea[])
    AND b.digest = d.digest
    AND convert_to(concat_ws(E'\n', b.account, b.kind), 'UTF8') || b.digest = d.key;

-- name: drop_review_results
-- Takes out the words on signs and templates that some records are not read as any more; what nobody says anything
-- of any more is pending again.
WITH gone AS (
    DELETE FROM review_results AS v
    USING replay_removed AS d
    WHERE
        d.what = 'review'
        AND d.digest = ANY($1::bytea[])
        AND convert_to(concat_ws(E'\n', v.account, v.kind, v.vendor_id), 'UTF8') || v.fingerprint = d.key
    RETURNING v.account, v.kind, v.vendor_id
),

asked AS (
    UPDATE reviews AS w
    SET status = 'pending', next_poll_at = $2, polls = 0
    FROM gone AS g
    WHERE w.account = g.account AND w.kind = g.kind AND w.vendor_id = g.vendor_id
)

SELECT DISTINCT
    g.account,
    g.kind,
    g.vendor_id
FROM gone AS g;

-- name: unsettle_messages
-- Gives locked messages without any final report that counts back the state that they had before one.
UPDATE messages AS m
SET status = 'submitted', vendor_code = NULL, reason = NULL, reported_at = NULL, contradicted = FALSE
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
WHERE
    m.shard = t.shard
    AND m.id = t.id
    AND m.status IN ('delivered', 'failed')
    AND NOT EXISTS (
        SELECT 1
        FROM reports AS r
        WHERE
            r.shard = m.shard
            AND r.message_id = m.id
            AND r.status IN ('delivered', 'failed')
            AND NOT CASE
                WHEN r.verdict IS NOT NULL THEN r.verdict = 'rejected'
                ELSE r.doubts IS NOT NULL OR coalesce(m.sent_at > r.sent_by, FALSE)
            END
    )
RETURNING m.shard, m.id, m.account, m.sent_at;

-- name: await_messages
-- Has messages asked about.
INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
SELECT t.shard, t.id, t.account, t.sent_at, t.next_poll_at
FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[]) AS t (
    shard, id, account, sent_at, next_poll_at
)
ON CONFLICT (shard, message_id) DO NOTHING;

-- name: add_replay
-- Notes that stored bytes are parsed again.
INSERT INTO replays (id, replayed_by, parsers, account, since, until, started_at, counts)
VALUES ($1, $2, $3, $4, $5, $6, $7, '{}');

-- name: replay_done
-- Notes what a replay has done so far; with a time, that it is over.
UPDATE replays
SET counts = $2, finished_at = $3
WHERE id = $1;

-- name: list_replays
-- Lists replays, the newest first; after a time and id with a cursor.
SELECT
    id,
    replayed_by,
    parsers,
    account,
    since,
    until,
    started_at,
    finished_at,
    counts
FROM replays
WHERE $1::timestamptz IS NULL OR (started_at, id) < ($1, $2::uuid)
ORDER BY started_at DESC, id DESC
LIMIT $3;
