-- What a Citus cluster is asked instead: queries of sql/queries that it refuses, or would answer otherwise, in
-- words that it takes. Same name, same parameters, same result. What stands in a CTE is read from all servers
-- first; the rest happens on the coordinator, or is sent to where the rows are.

-- name: become
-- As everywhere, if the role may log in besides: Citus logs in to the other servers as it.
SELECT set_config('role', r.rolname, false)
FROM pg_roles AS r
WHERE
    r.rolname = $1
    AND r.rolcanlogin
    AND pg_has_role(
        r.oid,
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END
    );

-- name: record
-- As everywhere, but that the batch's number is joined to what was stored: no shard knows the batch.
WITH batch AS (
    INSERT INTO batches (recorder, recorded_at)
    VALUES ($1, $2)
    RETURNING id
),

stored AS (
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
    RETURNING r.digest, r.batch_id
)

SELECT
    s.digest,
    s.batch_id,
    b.id AS new_batch_id
FROM stored AS s
CROSS JOIN batch AS b;

-- name: take_up_batches
-- As everywhere, but for the newest two minutes, as unlinked_batches, unless all are asked for.
WITH left_behind AS (
    SELECT id
    FROM batches
    WHERE
        settled_at IS NULL
        AND recorded_at NOT BETWEEN $1 AND $3
        AND ($1 = $3 OR recorded_at NOT BETWEEN now() - interval '2 minutes' AND now())
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

-- name: add_reports
-- As everywhere, but that messages, and numbers that were purged, are looked up in statements of their own; and that
-- each is an orphan until it is folded. So a fold that did not see it, for its server was slow to commit, is made
-- up for where orphans are joined.
WITH known AS MATERIALIZED (
    SELECT
        k.shard,
        k.id,
        k.phone
    FROM (SELECT DISTINCT u.shard, u.id FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)) AS t
    INNER JOIN messages AS k ON t.shard = k.shard AND t.id = k.id
),

pseudonyms AS MATERIALIZED (
    SELECT DISTINCT ON (k.shard, k.message_id)
        k.shard,
        k.message_id,
        k.phone
    FROM (SELECT DISTINCT u.shard, u.id FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)) AS t
    INNER JOIN reports AS k ON t.shard = k.shard AND t.id = k.message_id
    WHERE k.phone ~ '[A-Za-z]'
    ORDER BY k.shard, k.message_id, k.fingerprint
),

given AS MATERIALIZED (
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
    LEFT JOIN known AS m ON t.shard = m.shard AND t.message_id = m.id
    LEFT JOIN pseudonyms AS o ON t.shard = o.shard AND t.message_id = o.message_id
    LEFT JOIN LATERAL (
        SELECT CASE WHEN m.id IS NULL THEN o.phone WHEN m.phone ~ '[A-Za-z]' THEN m.phone END AS phone
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
    TRUE
FROM given AS g
ON CONFLICT (shard, message_id, fingerprint) DO NOTHING;

-- name: lock_messages
-- Locks messages by writing them as they are: Citus locks rows of several shards in no other way. It lets no two
-- transactions do so in one shard at a time, and takes the shards in one order.
WITH locked AS (
    UPDATE messages AS m
    SET contradicted = m.contradicted
    FROM (SELECT DISTINCT u.shard, u.id FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)) AS t
    WHERE m.shard = t.shard AND m.id = t.id
    RETURNING m.shard, m.id, m.sent_at
)

SELECT
    l.shard,
    l.id,
    date_part('epoch', l.sent_at) AS sent
FROM locked AS l
ORDER BY l.shard, l.id;

-- name: settle_plain
-- Returns all keys, so that every report goes by lock_messages: a lock in several shards is no short way here.
SELECT
    u.shard,
    u.id AS message_id
FROM
    unnest($1::integer[], $2::uuid[]) AS u (shard, id),
    (
        SELECT
            $3::bytea[],
            $4::text[],
            $5::text[],
            $6::text[],
            $7::timestamptz[],
            $8::timestamptz[],
            $9::bytea[],
            $10::integer[],
            $11::text[],
            $12::text[],
            $13::text[],
            $14::text[],
            $15::float8[],
            $16::bigint[],
            $17::timestamptz
    ) AS unused;

-- name: joinable_orphans_of
-- Finds which of the given, newly known messages have reports already.
SELECT DISTINCT
    r.shard,
    r.message_id
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id;

-- name: lock_referred
-- Locks messages without a vendor id that reports name by our own reference, as lock_messages does.
WITH locked AS (
    UPDATE messages AS m
    SET contradicted = m.contradicted
    FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS t (shard, id, phone)
    WHERE
        m.shard = t.shard
        AND m.id = t.id
        AND m.account = $1
        AND m.phone = t.phone
        AND m.status IN ('submitting', 'indeterminate')
    RETURNING m.shard, m.id, m.phone, m.sent_at
)

SELECT
    l.shard,
    l.id,
    l.phone,
    l.sent_at
FROM locked AS l
ORDER BY l.shard, l.id;

-- name: claim_awaiting
-- As everywhere, but that whoever comes second waits, and then leaves what the first one took.
WITH due AS MATERIALIZED (
    SELECT
        a.shard,
        a.message_id
    FROM awaiting AS a
    WHERE a.account = $1 AND a.next_poll_at <= $2
    ORDER BY a.next_poll_at
    LIMIT $4
),

claimed AS (
    UPDATE awaiting AS a
    SET
        next_poll_at = $3,
        polls = a.polls + 1
    FROM due
    WHERE a.shard = due.shard AND a.message_id = due.message_id AND a.account = $1 AND a.next_poll_at <= $2
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
-- As everywhere, but that it waits for what is locked.
WITH asked AS MATERIALIZED (
    SELECT
        a.shard,
        a.message_id,
        $3::timestamptz + make_interval(secs => least($4::float8 * 2 ^ least(a.polls - 1, 30), $5::float8)) AS next_at,
        a.sent_at + make_interval(secs => $6::float8) AS until
    FROM unnest($1::integer[], $2::uuid[]) AS t (shard, message_id)
    INNER JOIN awaiting AS a ON t.shard = a.shard AND t.message_id = a.message_id
)

UPDATE awaiting AS a
SET next_poll_at = CASE WHEN asked.until > $3 THEN least(asked.next_at, asked.until) ELSE asked.next_at END
FROM asked
WHERE a.shard = asked.shard AND a.message_id = asked.message_id;

-- name: ask_now
-- As everywhere, but that it waits for what is locked.
UPDATE awaiting AS a
SET next_poll_at = $2
WHERE a.account = $1 AND a.next_poll_at > $2 AND a.sent_at <= $3;

-- name: settle_strangers
-- As everywhere, but that it waits for whoever folds one, and that what was said before is read before.
WITH strange AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.account,
        r.vendor_message_id,
        r.received_at,
        coalesce(r.doubts, '{}') || CASE
            WHEN n.shard IS NULL THEN '{}'::text[]
            ELSE ARRAY['number_differs']
        END AS reasons
    FROM (SELECT DISTINCT u.shard FROM unnest($1::integer[]) AS u (shard)) AS t
    INNER JOIN reports AS r ON t.shard = r.shard
    LEFT JOIN messages AS o ON r.shard = o.shard AND r.message_id = o.id
    LEFT JOIN (
        SELECT DISTINCT
            m.shard,
            m.account,
            m.vendor_message_id
        FROM messages AS m
        WHERE m.shard = ANY($1)
    ) AS n
        ON r.shard = n.shard AND r.account = n.account AND r.vendor_message_id = n.vendor_message_id
    WHERE
        r.orphan
        AND r.source = 'push'
        AND NOT r.alternate
        AND r.verdict IS NULL
        AND o.id IS NULL
        AND (r.doubts IS NOT NULL OR n.shard IS NOT NULL)
),

marked AS (
    UPDATE reports AS r
    SET left_out = TRUE
    FROM strange AS s
    WHERE
        r.shard = s.shard
        AND r.message_id = s.message_id
        AND r.fingerprint = s.fingerprint
        AND r.orphan
        AND r.verdict IS NULL
    RETURNING r.shard, r.message_id, r.fingerprint
),

held AS MATERIALIZED (
    SELECT s.*
    FROM strange AS s
    INNER JOIN marked AS m
        ON s.shard = m.shard AND s.message_id = m.message_id AND s.fingerprint = m.fingerprint
),

before AS MATERIALIZED (
    SELECT
        b.shard,
        b.message_id,
        b.fingerprint,
        b.reasons
    FROM held AS s
    INNER JOIN suspects AS b
        ON s.shard = b.shard AND s.message_id = b.message_id AND s.fingerprint = b.fingerprint
),

kept AS (
    INSERT INTO suspects AS k (
        shard,
        message_id,
        fingerprint,
        account,
        vendor_message_id,
        reasons,
        state,
        received_at,
        found_at,
        changed_at
    )
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.account,
        s.vendor_message_id,
        s.reasons,
        'waiting',
        s.received_at,
        $2,
        $2
    FROM held AS s
    ORDER BY s.shard, s.message_id, s.fingerprint
    ON CONFLICT (shard, message_id, fingerprint) DO UPDATE
    SET
        reasons = excluded.reasons,
        changed_at = excluded.changed_at
    WHERE k.state = 'waiting' AND k.reasons <> excluded.reasons
    RETURNING k.shard, k.message_id, k.fingerprint, k.account, k.reasons, k.state
)

SELECT
    k.shard,
    k.message_id,
    k.fingerprint,
    k.account,
    k.reasons,
    k.state,
    b.reasons AS reasons_before
FROM kept AS k
LEFT JOIN before AS b
    ON k.shard = b.shard AND k.message_id = b.message_id AND k.fingerprint = b.fingerprint;

-- name: suspects_to_ask
-- As everywhere, but that whoever comes second waits, and then leaves what the first one took.
WITH unasked AS MATERIALIZED (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint
    FROM suspects AS s
    WHERE s.account = $1 AND s.state = 'waiting' AND s.asked_at IS NULL
    ORDER BY s.found_at
    LIMIT $3
),

asked AS (
    UPDATE suspects AS s
    SET asked_at = $2
    FROM unasked AS u
    WHERE
        s.shard = u.shard
        AND s.message_id = u.message_id
        AND s.fingerprint = u.fingerprint
        AND s.account = $1
        AND s.state = 'waiting'
        AND s.asked_at IS NULL
    RETURNING s.shard, s.account, s.vendor_message_id
)

SELECT DISTINCT
    m.shard,
    m.id
FROM asked AS a
INNER JOIN messages AS m
    ON a.shard = m.shard AND a.account = m.account AND a.vendor_message_id = m.vendor_message_id
WHERE m.status NOT IN ('submitting', 'indeterminate', 'refused');

-- name: list_suspects
-- As everywhere; where their records came from is read for the page alone.
WITH page AS MATERIALIZED (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.account,
        s.vendor_message_id,
        s.reasons,
        s.state,
        s.found_at,
        s.changed_at,
        s.asked_at,
        r.phone,
        r.status,
        r.vendor_code,
        r.reason,
        r.reported_at,
        r.received_at,
        r.digest,
        m.id AS known_id,
        m.status AS message_status
    FROM suspects AS s
    INNER JOIN reports AS r
        ON s.shard = r.shard AND s.message_id = r.message_id AND s.fingerprint = r.fingerprint
    LEFT JOIN messages AS m ON s.shard = m.shard AND s.message_id = m.id
    WHERE
        s.account = ANY($1::text[])
        AND ($2::text IS NULL OR s.state = $2)
        AND ($3::text IS NULL OR $3 = ANY(s.reasons))
        AND ($4::timestamptz IS NULL OR (s.found_at, s.message_id, s.fingerprint) < ($4, $5::uuid, $6::bytea))
    ORDER BY s.found_at DESC, s.message_id DESC, s.fingerprint DESC
    LIMIT $7
),

decided AS MATERIALIZED (
    SELECT DISTINCT ON (e.shard, e.message_id, e.fingerprint)
        e.shard,
        e.message_id,
        e.fingerprint,
        e.decided_at,
        e.decided_by,
        e.note
    FROM page AS p
    INNER JOIN suspect_decisions AS e
        ON p.shard = e.shard AND p.message_id = e.message_id AND p.fingerprint = e.fingerprint
    ORDER BY e.shard, e.message_id, e.fingerprint, e.decided_at DESC
),

came AS MATERIALIZED (
    SELECT
        c.digest,
        c.peer
    FROM (SELECT DISTINCT g.digest FROM page AS g) AS p
    INNER JOIN records AS c ON p.digest = c.digest
)

SELECT
    p.shard,
    p.message_id,
    p.fingerprint,
    p.account,
    p.vendor_message_id,
    p.reasons,
    p.state,
    p.found_at,
    p.changed_at,
    p.asked_at,
    p.phone,
    p.status,
    p.vendor_code,
    p.reason,
    p.reported_at,
    p.received_at,
    p.digest,
    p.known_id,
    p.message_status,
    d.decided_at,
    d.decided_by,
    d.note,
    c.peer
FROM page AS p
LEFT JOIN decided AS d
    ON p.shard = d.shard AND p.message_id = d.message_id AND p.fingerprint = d.fingerprint
LEFT JOIN came AS c ON p.digest = c.digest
ORDER BY p.found_at DESC, p.message_id DESC, p.fingerprint DESC;

-- name: lock_bodies
-- Locks records that still have their bytes, as lock_messages locks messages.
WITH locked AS (
    UPDATE records AS r
    SET deliveries = r.deliveries
    WHERE r.digest = ANY($1::bytea[]) AND r.purge_id IS NULL
    RETURNING r.digest
)

SELECT l.digest
FROM locked AS l
ORDER BY l.digest;

-- name: unlinked_batches
-- As everywhere, but for the newest two minutes: the coordinator shows what is committed before the other servers
-- do, and one that breaks off there is made to within a minute.
WITH oldest AS MATERIALIZED (
    SELECT
        b.id,
        b.recorded_at
    FROM batches AS b
    WHERE
        b.settled_at IS NOT NULL
        AND b.height IS NULL
        AND b.recorded_at NOT BETWEEN now() - interval '2 minutes' AND now()
    ORDER BY b.recorded_at, b.id
    LIMIT $1
),

held AS MATERIALIZED (
    SELECT
        r.batch_id,
        count(*) AS records
    FROM oldest AS o
    INNER JOIN records AS r ON o.id = r.batch_id
    GROUP BY r.batch_id
),

counted AS (
    SELECT
        o.id,
        sum(coalesce(h.records, 0)) OVER (ORDER BY o.recorded_at, o.id) - coalesce(h.records, 0) AS before
    FROM oldest AS o
    LEFT JOIN held AS h ON o.id = h.batch_id
)

SELECT c.id
FROM counted AS c
WHERE c.before < $2;

-- name: take_unlinked_actions
-- As everywhere; those that a link has already are read first.
WITH taken AS (
    DELETE FROM unlinked_actions AS u
    USING (
        SELECT n.id
        FROM unlinked_actions AS n
        ORDER BY n.at, n.id
        LIMIT $1
    ) AS o
    WHERE u.id = o.id
    RETURNING u.id
),

done AS MATERIALIZED (
    SELECT
        a.id,
        a.action_id,
        a.at,
        a.outcome,
        a.actor,
        a.role,
        a.via,
        a.peer,
        a.what,
        a.subject,
        a.status,
        CASE WHEN a.outcome = 'begun' THEN 'action' ELSE 'outcome' END AS kind,
        uuid_send(a.action_id) AS key
    FROM taken AS t
    INNER JOIN operator_actions AS a ON t.id = a.id
),

linked AS MATERIALIZED (
    SELECT d.id
    FROM done AS d
    INNER JOIN chain_entries AS e ON d.kind = e.kind AND d.key = e.key
)

SELECT
    d.action_id,
    d.at,
    d.outcome,
    d.actor,
    d.role,
    d.via,
    d.peer,
    d.what,
    d.subject,
    d.status
FROM done AS d
WHERE NOT EXISTS (SELECT 1 FROM linked AS l WHERE l.id = d.id)
ORDER BY d.at, d.id;

-- name: take_unlinked_messages
-- As everywhere, but for the newest two minutes, as unlinked_batches.
DELETE FROM unlinked_messages AS u
USING (
    SELECT
        o.id,
        sum(cardinality(o.message_ids)) OVER (ORDER BY o.id) - cardinality(o.message_ids) AS before
    FROM (
        SELECT
            n.id,
            n.message_ids
        FROM unlinked_messages AS n
        WHERE n.registered_at NOT BETWEEN now() - interval '2 minutes' AND now()
        ORDER BY n.id
        LIMIT $1
    ) AS o
) AS c
WHERE u.id = c.id AND c.before < $2
RETURNING u.id, u.message_ids;

-- name: messages_to_link
-- As everywhere; what is linked of them is read first.
WITH linked AS MATERIALIZED (
    SELECT e.key
    FROM unnest($2::uuid[]) AS t (id)
    INNER JOIN chain_entries AS e ON uuid_send(t.id) = e.key
    WHERE e.kind = 'message'
),

registered AS MATERIALIZED (
    SELECT
        m.id,
        m.account,
        m.vendor_message_id,
        m.phone,
        m.sent_at,
        m.registered_at,
        m.segments,
        m.segments_given,
        m.content,
        m.sign,
        m.reference,
        m.template_id,
        t.place
    FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS t (shard, id, place)
    INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
)

SELECT
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.registered_at,
    m.segments,
    m.segments_given,
    m.content,
    m.sign,
    m.reference,
    m.template_id
FROM registered AS m
WHERE NOT EXISTS (SELECT 1 FROM linked AS l WHERE l.key = uuid_send(m.id))
ORDER BY m.place;

-- name: statements_to_link
-- As everywhere; what is linked of them is read first.
WITH keys AS MATERIALIZED (
    SELECT uuid_send(s.id) AS key
    FROM statements AS s
),

linked AS MATERIALIZED (
    SELECT e.key
    FROM keys AS k
    INNER JOIN chain_entries AS e ON k.key = e.key
    WHERE e.kind = 'statement'
)

SELECT
    s.id,
    s.account,
    s.first_day,
    s.last_day,
    s.version,
    s.file_digest,
    s.file_name,
    s.format,
    s.lines,
    s.segments,
    s.amount,
    s.imported_at,
    s.lines_sha256
FROM statements AS s
WHERE NOT EXISTS (SELECT 1 FROM linked AS l WHERE l.key = uuid_send(s.id))
ORDER BY s.imported_at, s.id
LIMIT $1;

-- name: runs_to_link
-- As everywhere; what is linked of them is read first.
WITH keys AS MATERIALIZED (
    SELECT
        'run' AS kind,
        uuid_send(r.id) AS key
    FROM runs AS r
    WHERE NOT r.assumed
    UNION
    SELECT
        'statement',
        uuid_send(r.statement_id)
    FROM runs AS r
    WHERE NOT r.assumed AND r.statement_id IS NOT NULL
),

linked AS MATERIALIZED (
    SELECT
        e.kind,
        e.key
    FROM keys AS k
    INNER JOIN chain_entries AS e ON k.kind = e.kind AND k.key = e.key
)

SELECT
    r.id,
    r.account,
    r.first_day,
    r.last_day,
    r.statement_id,
    r.run_at,
    r.rules,
    r.result,
    r.discrepancies_sha256,
    r.reports_sha256
FROM runs AS r
WHERE
    NOT r.assumed
    AND NOT EXISTS (SELECT 1 FROM linked AS e WHERE e.kind = 'run' AND e.key = uuid_send(r.id))
    AND (
        r.statement_id IS NULL
        OR EXISTS (SELECT 1 FROM linked AS e WHERE e.kind = 'statement' AND e.key = uuid_send(r.statement_id))
    )
    AND NOT EXISTS (SELECT 1 FROM batches AS b WHERE b.settled_at IS NULL AND b.recorded_at <= r.run_at)
    AND NOT EXISTS (
        SELECT 1
        FROM batches AS b
        WHERE b.settled_at IS NOT NULL AND b.height IS NULL AND b.recorded_at <= r.run_at
    )
    AND NOT EXISTS (SELECT 1 FROM unlinked_messages AS u WHERE u.registered_at <= r.run_at)
ORDER BY r.run_at, r.id
LIMIT $1;

-- name: chain_behind
-- As everywhere; what is linked of statements and runs is read first.
WITH keys AS MATERIALIZED (
    SELECT
        'statement' AS kind,
        uuid_send(s.id) AS key,
        s.imported_at AS at
    FROM statements AS s
    UNION ALL
    SELECT
        'run',
        uuid_send(r.id),
        r.run_at
    FROM runs AS r
    WHERE NOT r.assumed
),

linked AS MATERIALIZED (
    SELECT
        e.kind,
        e.key
    FROM keys AS k
    INNER JOIN chain_entries AS e ON k.kind = e.kind AND k.key = e.key
)

SELECT coalesce(extract(EPOCH FROM clock_timestamp() - min(u.at)), 0)::float8 AS seconds
FROM (
    SELECT min(b.recorded_at) AS at
    FROM batches AS b
    WHERE b.settled_at IS NULL
    UNION ALL
    SELECT min(b.recorded_at)
    FROM batches AS b
    WHERE b.settled_at IS NOT NULL AND b.height IS NULL
    UNION ALL
    SELECT min(m.registered_at)
    FROM unlinked_messages AS m
    UNION ALL
    SELECT min(a.at)
    FROM unlinked_actions AS a
    UNION ALL
    SELECT min(k.at)
    FROM keys AS k
    WHERE NOT EXISTS (SELECT 1 FROM linked AS e WHERE e.kind = k.kind AND e.key = k.key)
) AS u;

-- name: messages_to_verify
-- As everywhere; what was linked of them is read by itself.
WITH linked AS MATERIALIZED (
    SELECT
        e.key,
        e.content
    FROM unnest($2::uuid[]) AS t (id)
    INNER JOIN chain_entries AS e ON uuid_send(t.id) = e.key
    WHERE e.kind = 'message'
),

registered AS MATERIALIZED (
    SELECT
        m.id,
        m.account,
        m.vendor_message_id,
        m.phone,
        m.sent_at,
        m.registered_at,
        m.segments,
        m.segments_given,
        m.content,
        m.sign,
        m.reference,
        m.template_id,
        m.purge_id
    FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
    INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
)

SELECT
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.registered_at,
    m.segments,
    m.segments_given,
    m.content,
    m.sign,
    m.reference,
    m.template_id,
    CASE WHEN m.purge_id IS NOT NULL THEN e.content END AS purged_content
FROM registered AS m
LEFT JOIN linked AS e ON uuid_send(m.id) = e.key;

-- name: unlinked_in_linked
-- As everywhere; what stands on several servers is brought to one.
WITH waiting AS MATERIALIZED (
    SELECT unnest(u.message_ids) AS id
    FROM unlinked_messages AS u
),

unlinked_records AS MATERIALIZED (
    SELECT
        r.digest,
        r.batch_id
    FROM records AS r
    WHERE NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.key = r.digest AND e.kind = 'record')
),

registered AS MATERIALIZED (
    SELECT
        m.id,
        uuid_send(m.id) AS key
    FROM messages AS m
    WHERE m.vendor_message_id NOT LIKE '~%'
),

linked AS MATERIALIZED (
    SELECT e.key
    FROM chain_entries AS e
    WHERE e.kind = 'message'
),

heights AS MATERIALIZED (
    SELECT DISTINCT e.height
    FROM chain_entries AS e
),

linked_actions AS MATERIALIZED (
    SELECT
        e.kind,
        e.key
    FROM chain_entries AS e
    WHERE e.kind IN ('action', 'outcome')
),

linked_purges AS MATERIALIZED (
    SELECT e.key
    FROM chain_entries AS e
    WHERE e.kind = 'purge'
),

records_purged AS MATERIALIZED (
    SELECT DISTINCT r.purge_id
    FROM records AS r
    WHERE r.purge_id IS NOT NULL
),

messages_purged AS MATERIALIZED (
    SELECT DISTINCT m.purge_id
    FROM messages AS m
    WHERE m.purge_id IS NOT NULL
)

SELECT
    'record' AS kind,
    encode(r.digest, 'hex') AS key,
    b.height
FROM unlinked_records AS r
LEFT JOIN batches AS b ON r.batch_id = b.id
WHERE b.id IS NULL OR b.height IS NOT NULL
UNION ALL
SELECT
    'message',
    m.id::text,
    NULL
FROM registered AS m
WHERE
    NOT EXISTS (SELECT 1 FROM linked AS e WHERE e.key = m.key)
    AND NOT EXISTS (SELECT 1 FROM waiting AS w WHERE w.id = m.id)
UNION ALL
SELECT
    'link',
    'link ' || b.height,
    b.height
FROM batches AS b
WHERE b.height > (SELECT coalesce(max(l.height), 0) FROM chain_links AS l)
GROUP BY b.height
UNION ALL
SELECT
    'entries',
    'link ' || e.height,
    e.height
FROM heights AS e
WHERE NOT EXISTS (SELECT 1 FROM chain_links AS l WHERE l.height = e.height)
UNION ALL
SELECT
    k.kind,
    a.action_id::text,
    NULL
FROM operator_actions AS a
CROSS JOIN LATERAL (SELECT CASE WHEN a.outcome = 'begun' THEN 'action' ELSE 'outcome' END AS kind) AS k
WHERE
    NOT EXISTS (SELECT 1 FROM linked_actions AS e WHERE e.kind = k.kind AND e.key = uuid_send(a.action_id))
    AND NOT EXISTS (SELECT 1 FROM unlinked_actions AS u WHERE u.id = a.id)
UNION ALL
SELECT
    'purge',
    p.id::text,
    NULL
FROM purges AS p
WHERE p.linked AND NOT EXISTS (SELECT 1 FROM linked_purges AS e WHERE e.key = uuid_send(p.id))
UNION ALL
SELECT DISTINCT
    'purge',
    n.purge_id::text,
    NULL::bigint
FROM (
    SELECT r.purge_id
    FROM records_purged AS r
    UNION ALL
    SELECT m.purge_id
    FROM messages_purged AS m
) AS n
WHERE NOT EXISTS (SELECT 1 FROM purges AS p WHERE p.id = n.purge_id);

-- name: keep_run_reports
-- As everywhere; what is linked, and what is suspect, is read first.
INSERT INTO run_reports (run_id, shard, message_id, fingerprint, digest, reasons, state)
WITH disputed AS MATERIALIZED (
    SELECT DISTINCT
        d.shard,
        coalesce(d.message_id, l.message_id) AS message_id
    FROM discrepancies AS d
    LEFT JOIN lines AS l
        ON l.statement_id = ANY(ARRAY[$2::uuid]) AND d.line = l.line AND d.shard = l.shard
    WHERE d.run_id = $1
),

reported AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.digest
    FROM disputed AS d
    INNER JOIN reports AS r ON d.shard = r.shard AND d.message_id = r.message_id
),

sent AS MATERIALIZED (
    SELECT
        m.shard,
        m.id,
        m.submission_id
    FROM disputed AS d
    INNER JOIN messages AS m ON d.shard = m.shard AND d.message_id = m.id
    WHERE m.submission_id IS NOT NULL
),

found AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.digest
    FROM reported AS r
    UNION ALL
    SELECT
        m.shard,
        m.id,
        ''::bytea,
        s.digest
    FROM sent AS m
    INNER JOIN submissions AS s ON m.submission_id = s.id
    WHERE s.digest IS NOT NULL
),

linked AS MATERIALIZED (
    SELECT e.key
    FROM (SELECT DISTINCT n.digest FROM found AS n) AS f
    INNER JOIN chain_entries AS e ON f.digest = e.key
    WHERE e.kind = 'record'
),

suspected AS MATERIALIZED (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.reasons,
        s.state
    FROM found AS f
    INNER JOIN suspects AS s
        ON f.shard = s.shard AND f.message_id = s.message_id AND f.fingerprint = s.fingerprint
)

SELECT
    $1::uuid,
    f.shard,
    f.message_id,
    f.fingerprint,
    f.digest,
    s.reasons,
    s.state
FROM found AS f
INNER JOIN linked AS l ON f.digest = l.key
LEFT JOIN suspected AS s
    ON f.shard = s.shard AND f.message_id = s.message_id AND f.fingerprint = s.fingerprint;

-- name: list_messages
-- As everywhere; each shard gives its first rows.
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
FROM messages AS m
WHERE
    m.account = ANY($1::text[])
    AND ($2::text IS NULL OR m.reference = $2)
    AND ($3::text IS NULL OR m.status = $3)
    AND ($4::timestamptz IS NULL OR m.sent_at >= $4)
    AND ($5::timestamptz IS NULL OR m.sent_at < $5)
    AND ($6::timestamptz IS NULL OR (m.sent_at, m.id) < ($6, $7::uuid))
ORDER BY m.sent_at DESC, m.id DESC
LIMIT $8;

-- name: list_callbacks
-- As everywhere; each shard gives its first rows. Of batches those are read that are not settled, which are few.
WITH unsettled AS MATERIALIZED (
    SELECT b.id
    FROM batches AS b
    WHERE b.settled_at IS NULL
)

SELECT
    c.digest,
    c.account,
    c.received_at,
    c.last_received_at,
    c.deliveries,
    c.method,
    c.headers,
    c.peer,
    c.bytes,
    c.reason,
    c.state
FROM (
    SELECT
        r.digest,
        r.account,
        r.received_at,
        r.last_received_at,
        r.deliveries,
        r.method,
        r.headers,
        r.peer,
        coalesce(r.purged_bytes, length(r.body)) AS bytes,
        q.reason,
        CASE
            WHEN q.digest IS NOT NULL THEN 'quarantined'
            WHEN u.id IS NULL THEN 'settled'
            ELSE 'recorded'
        END AS state
    FROM records AS r
    LEFT JOIN quarantine AS q ON r.digest = q.digest
    LEFT JOIN unsettled AS u ON r.batch_id = u.id
    WHERE r.account = ANY($1::text[]) AND r.source = 'push'
) AS c
WHERE
    ($2::text IS NULL OR c.state = $2)
    AND ($3::timestamptz IS NULL OR c.received_at >= $3)
    AND ($4::timestamptz IS NULL OR c.received_at < $4)
    AND ($5::timestamptz IS NULL OR (c.received_at, c.digest) < ($5, $6::bytea))
ORDER BY c.received_at DESC, c.digest DESC
LIMIT $7;

-- name: list_inbound
-- As everywhere; each shard gives its first rows.
SELECT
    i.fingerprint,
    i.account,
    i.phone,
    i.content,
    i.sent_at,
    i.received_at,
    i.extension,
    i.vendor_message_id,
    i.source,
    i.digest
FROM inbound AS i
WHERE
    i.account = ANY($1::text[])
    AND ($2::text IS NULL OR i.phone = $2)
    AND ($3::timestamptz IS NULL OR i.received_at >= $3)
    AND ($4::timestamptz IS NULL OR i.received_at < $4)
    AND ($5::timestamptz IS NULL OR (i.received_at, i.fingerprint) < ($5, $6::bytea))
ORDER BY i.received_at DESC, i.fingerprint DESC
LIMIT $7;

-- name: list_orphans
-- As everywhere; each shard gives its first rows, and the fold is read for the page.
WITH page AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.account,
        r.vendor_message_id,
        r.phone,
        r.received_at,
        r.fingerprint
    FROM reports AS r
    WHERE
        r.account = ANY($1::text[])
        AND r.orphan
        AND NOT r.alternate
        AND ($2::timestamptz IS NULL OR r.received_at >= $2)
        AND ($3::timestamptz IS NULL OR r.received_at < $3)
        AND ($4::timestamptz IS NULL OR (r.received_at, r.message_id, r.fingerprint) < ($4, $5::uuid, $6::bytea))
        AND NOT EXISTS (
            SELECT 1
            FROM reports AS e
            WHERE
                e.shard = r.shard
                AND e.message_id = r.message_id
                AND (e.received_at, e.fingerprint) < (r.received_at, r.fingerprint)
        )
    ORDER BY r.received_at DESC, r.message_id DESC, r.fingerprint DESC
    LIMIT $7
),

said AS MATERIALIZED (
    SELECT DISTINCT ON (r.shard, r.message_id)
        r.shard,
        r.message_id,
        r.status,
        r.vendor_code,
        r.reason,
        r.reported_at,
        r.source,
        r.digest,
        count(*) OVER (PARTITION BY r.shard, r.message_id) AS reports
    FROM page AS p
    INNER JOIN reports AS r ON p.shard = r.shard AND p.message_id = r.message_id
    ORDER BY
        r.shard,
        r.message_id,
        r.left_out,
        r.status NOT IN ('delivered', 'failed'),
        r.reported_at NULLS LAST,
        r.status,
        r.fingerprint
)

SELECT
    o.message_id,
    o.account,
    o.vendor_message_id,
    o.phone,
    o.received_at,
    o.fingerprint,
    s.status,
    s.vendor_code,
    s.reason,
    s.reported_at,
    s.source,
    s.digest,
    s.reports
FROM page AS o
INNER JOIN said AS s ON o.shard = s.shard AND o.message_id = s.message_id
ORDER BY o.received_at DESC, o.message_id DESC, o.fingerprint DESC;

-- name: list_cases
-- As everywhere; each shard gives its first rows.
SELECT
    k.id,
    k.account,
    k.first_day,
    k.last_day,
    k.kind,
    k.state,
    k.owner,
    k.note,
    k.vendor_message_id,
    k.phone,
    k.nth,
    k.message_id,
    k.line,
    k.sent_at,
    k.status,
    k.segments,
    k.amount,
    k.credited,
    k.currency,
    k.found_at,
    k.ended_at,
    k.changed_at,
    k.changed_by,
    k.version,
    k.run_id
FROM cases AS k
WHERE
    k.account = ANY($1::text[])
    AND ($2::date IS NULL OR (k.first_day = $2 AND k.last_day = $3::date))
    AND ($4::text IS NULL OR k.kind = $4)
    AND ($5::text IS NULL OR k.state = $5)
    AND ($6::text IS NULL OR coalesce(k.owner, '') = $6)
    AND (
        $7::integer IS NULL
        OR coalesce(k.ended_at, $8::timestamptz) - k.found_at >= make_interval(hours => 24 * $7)
    )
    AND ($9::timestamptz IS NULL OR (k.found_at, k.id) < ($9, $10::uuid))
ORDER BY k.found_at DESC, k.id DESC
LIMIT $11;

-- name: list_credits
-- As everywhere; the discrepancies are counted for the page.
WITH page AS MATERIALIZED (
    SELECT
        l.credit_id,
        l.line,
        l.account,
        l.number,
        l.vendor_message_id,
        l.phone,
        l.first_day,
        l.last_day,
        l.amount,
        l.allocated,
        l.currency,
        l.reason,
        l.outcome,
        c.file_name,
        c.imported_at
    FROM credits AS c
    INNER JOIN credit_lines AS l ON c.id = l.credit_id
    WHERE
        c.account = ANY($1::text[])
        AND ($2::text IS NULL OR l.number = $2)
        AND ($3::uuid IS NULL OR c.id = $3)
        AND (NOT $4::boolean OR l.allocated < l.amount)
        AND ($5::timestamptz IS NULL OR (c.imported_at, c.id, l.line) < ($5, $6::uuid, $7::integer))
    ORDER BY c.imported_at DESC, c.id DESC, l.line DESC
    LIMIT $8
),

allocated AS MATERIALIZED (
    SELECT
        a.credit_id,
        a.line,
        count(*) AS discrepancies
    FROM page AS p
    INNER JOIN credit_allocations AS a ON p.credit_id = a.credit_id AND p.line = a.line
    GROUP BY a.credit_id, a.line
)

SELECT
    p.credit_id,
    p.line,
    p.account,
    p.number,
    p.vendor_message_id,
    p.phone,
    p.first_day,
    p.last_day,
    p.amount,
    p.allocated,
    p.currency,
    p.reason,
    p.outcome,
    p.file_name,
    p.imported_at,
    coalesce(a.discrepancies, 0) AS discrepancies
FROM page AS p
LEFT JOIN allocated AS a ON p.credit_id = a.credit_id AND p.line = a.line
ORDER BY p.imported_at DESC, p.credit_id DESC, p.line DESC;

-- name: sources_of_day
-- As everywhere; the first final reports are read of all these messages at once.
WITH newest AS MATERIALIZED (
    SELECT
        m.shard,
        m.id
    FROM messages AS m
    WHERE
        m.account = $1
        AND m.sent_at >= $2
        AND m.sent_at < $3
        AND m.status IN ('delivered', 'failed')
    ORDER BY m.sent_at DESC
    LIMIT $4
),

first AS MATERIALIZED (
    SELECT DISTINCT ON (r.shard, r.message_id)
        r.shard,
        r.message_id,
        r.source
    FROM newest AS n
    INNER JOIN reports AS r ON n.shard = r.shard AND n.id = r.message_id
    WHERE r.status IN ('delivered', 'failed')
    ORDER BY r.shard, r.message_id, r.received_at, r.fingerprint
)

SELECT
    f.source,
    count(*) AS messages
FROM first AS f
GROUP BY f.source;

-- name: months_with_messages
-- As everywhere, but that it looks at all messages of these spans.
SELECT DISTINCT
    t.account,
    t.first_day
FROM unnest($1::text[], $2::date[], $3::timestamptz[], $4::timestamptz[]) AS t (account, first_day, starts, ends)
INNER JOIN messages AS m ON t.account = m.account AND m.sent_at >= t.starts AND m.sent_at < t.ends;

-- name: count_quarantine
-- As everywhere; counted for all accounts at once.
WITH counted AS MATERIALIZED (
    SELECT
        q.account,
        count(*) AS records
    FROM quarantine AS q
    WHERE q.account = ANY($1::text[])
    GROUP BY q.account
)

SELECT
    a.account,
    coalesce(c.records, 0) AS waiting
FROM unnest($1) AS a (account)
LEFT JOIN counted AS c ON a.account = c.account
ORDER BY a.account;

-- name: watched_accounts
-- As everywhere; each figure is counted for all accounts at once.
WITH pushed AS MATERIALIZED (
    SELECT
        r.account,
        max(r.received_at) AS last_push_at
    FROM records AS r
    WHERE r.account = ANY($1::text[]) AND r.source = 'push' AND r.received_at >= $2
    GROUP BY r.account
),

sent AS MATERIALIZED (
    SELECT
        m.account,
        count(*) AS messages
    FROM messages AS m
    WHERE m.account = ANY($1) AND m.sent_at >= $3 AND m.status <> 'refused'
    GROUP BY m.account
),

unknown AS MATERIALIZED (
    SELECT
        o.account,
        count(*) AS reports
    FROM reports AS o
    WHERE o.account = ANY($1) AND o.orphan AND NOT o.alternate AND o.received_at >= $2
    GROUP BY o.account
)

SELECT
    a.account,
    r.last_push_at,
    coalesce(m.messages, 0) AS sent,
    coalesce(o.reports, 0) AS orphans
FROM unnest($1) AS a (account)
LEFT JOIN pushed AS r ON a.account = r.account
LEFT JOIN sent AS m ON a.account = m.account
LEFT JOIN unknown AS o ON a.account = o.account
ORDER BY a.account;

-- name: audit_balances
-- As everywhere; what was sent between readings is summed for all of the page at once.
WITH read AS MATERIALIZED (
    SELECT
        b.kind,
        b.digest,
        b.amount,
        b.currency,
        b.read_at,
        lag(b.read_at) OVER kind AS before_at,
        lag(b.amount) OVER kind AS before
    FROM (
        SELECT
            c.kind,
            c.digest,
            c.amount,
            c.currency,
            c.read_at
        FROM balances AS c
        WHERE c.account = $1 AND c.read_at >= $2 AND c.read_at < $3
        UNION ALL
        SELECT
            e.kind,
            e.digest,
            e.amount,
            e.currency,
            e.read_at
        FROM (SELECT DISTINCT d.kind, d.currency FROM balances AS d WHERE d.account = $1) AS k
        CROSS JOIN LATERAL (
            SELECT
                f.kind,
                f.digest,
                f.amount,
                f.currency,
                f.read_at
            FROM balances AS f
            WHERE
                f.account = $1
                AND f.kind = k.kind
                AND f.currency IS NOT DISTINCT FROM k.currency
                AND f.read_at < $2
            ORDER BY f.read_at DESC, f.digest DESC
            LIMIT 1
        ) AS e
    ) AS b
    WINDOW kind AS (PARTITION BY b.kind, b.currency ORDER BY b.read_at, b.digest)
),

shown AS MATERIALIZED (
    SELECT
        r.*,
        row_number() OVER () AS place
    FROM read AS r
    WHERE r.before_at IS NOT NULL AND ($9::text IS NULL OR (r.kind, r.read_at, r.digest) > ($9, $10, $11::bytea))
    ORDER BY r.kind, r.read_at, r.digest
    LIMIT $12
),

sent AS MATERIALIZED (
    SELECT
        s.place,
        count(*) AS messages,
        sum(m.segments) AS segments,
        sum(m.segments) FILTER (
            WHERE
            m.status NOT IN ('submitting', 'indeterminate')
            AND (t.basis = 'submitted' OR m.status = 'delivered' OR (m.status = 'submitted' AND NOT $8::boolean))
        ) AS owed_segments,
        sum(m.segments * t.price) FILTER (
            WHERE
            m.status NOT IN ('submitting', 'indeterminate')
            AND (t.basis = 'submitted' OR m.status = 'delivered' OR (m.status = 'submitted' AND NOT $8::boolean))
        ) AS owed_amount,
        min(m.sent_at) FILTER (WHERE t.price IS NULL) AS untariffed_at
    FROM messages AS m
    INNER JOIN shown AS s ON m.sent_at > s.before_at AND m.sent_at <= s.read_at
    LEFT JOIN
        unnest($4::timestamptz[], $5::timestamptz[], $6::numeric[], $7::text[]) AS t (starts, ends, price, basis)
        ON m.sent_at >= t.starts AND m.sent_at < t.ends
    WHERE m.account = $1 AND m.status <> 'refused'
    GROUP BY s.place
)

SELECT
    s.kind,
    s.currency,
    s.before_at,
    s.read_at,
    s.before,
    s.amount,
    s.digest,
    coalesce(w.messages, 0) AS messages,
    coalesce(w.segments, 0)::bigint AS segments,
    coalesce(w.owed_segments, 0)::bigint AS owed_segments,
    coalesce(w.owed_amount, 0) AS owed_amount,
    w.untariffed_at
FROM shown AS s
LEFT JOIN sent AS w ON s.place = w.place
ORDER BY s.kind, s.read_at, s.digest;

-- name: demo_messages
-- As everywhere; which records came twice is read first.
WITH doubled AS MATERIALIZED (
    SELECT c.digest
    FROM records AS c
    WHERE c.deliveries > 1
)

SELECT
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.contradicted,
    m.segments,
    coalesce(bool_or(r.source = 'push' AND r.received_at < m.registered_at), FALSE) AS early,
    coalesce(bool_or(r.source = 'push' AND r.status IN ('delivered', 'failed')), FALSE) AS pushed,
    coalesce(bool_or(r.source <> 'push' AND r.status IN ('delivered', 'failed')), FALSE) AS recovered,
    coalesce(bool_or(r.source = 'push' AND c.digest IS NOT NULL), FALSE) AS doubled,
    coalesce(
        max(r.received_at) FILTER (WHERE r.status = 'pending' AND r.source = 'push')
        > min(r.received_at) FILTER (WHERE r.status IN ('delivered', 'failed') AND r.source = 'push'),
        FALSE
    ) AS reordered,
    coalesce(
        bool_or(r.source = 'query' AND r.received_at < m.registered_at), FALSE
    ) AS early_listed,
    max(r.billed_segments) AS charged
FROM messages AS m
LEFT JOIN reports AS r ON m.shard = r.shard AND m.id = r.message_id
LEFT JOIN doubled AS c ON r.digest = c.digest
GROUP BY
    m.shard,
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.contradicted,
    m.segments;

-- name: replay_missing_inbound
-- As everywhere; those that are there are read first.
WITH there AS MATERIALIZED (
    SELECT
        i.shard,
        i.fingerprint
    FROM unnest($1::integer[], $2::bytea[]) AS t (shard, fingerprint)
    INNER JOIN inbound AS i ON t.shard = i.shard AND t.fingerprint = i.fingerprint
)

SELECT t.digest
FROM unnest($1, $2, $3::bytea[]) AS t (shard, fingerprint, digest)
WHERE NOT EXISTS (SELECT 1 FROM there AS i WHERE i.shard = t.shard AND i.fingerprint = t.fingerprint);

-- name: add_discrepancies
-- As everywhere; the messages that lines without one of their own name are read first.
WITH unsent AS MATERIALIZED (
    SELECT
        l.shard,
        l.line,
        l.vendor_message_id,
        l.phone
    FROM run_lines AS l
    WHERE l.kind = 'billed_not_sent'
),

named AS MATERIALIZED (
    SELECT
        l.shard,
        l.line,
        min(
            CASE
                WHEN m.status NOT IN ('submitting', 'indeterminate', 'refused') THEN 3
                WHEN l.phone IS NOT NULL AND m.phone <> l.phone THEN NULL
                WHEN m.status = 'refused' THEN 1
                ELSE 2
            END
        ) AS nearest
    FROM unsent AS l
    INNER JOIN messages AS m ON l.shard = m.shard AND l.vendor_message_id = m.vendor_message_id
    WHERE m.account = $2
    GROUP BY l.shard, l.line
),

lined AS (
    SELECT DISTINCT
        l.shard,
        l.message_id
    FROM run_lines AS l
    WHERE l.in_period
),

charged_otherwise AS (
    SELECT
        l.shard,
        l.message_id
    FROM run_lines AS l
    WHERE l.contradicted AND l.in_period
),

apart AS (
    SELECT
        l.*,
        extract(EPOCH FROM l.line_sent_at - l.sent_at) AS seconds
    FROM run_lines AS l
    WHERE l.kind IS NOT NULL
),

found AS MATERIALIZED (
    SELECT
        l.kind,
        CASE l.kind
            WHEN 'billed_not_sent' THEN
                CASE u.nearest
                    WHEN 1 THEN 'refused_by_us'
                    WHEN 2 THEN 'in_doubt'
                    WHEN 3 THEN 'id_with_other_phone'
                    ELSE 'id_unknown'
                END
            WHEN 'billed_not_delivered' THEN
                CASE l.status WHEN 'failed' THEN 'failed' WHEN 'expired' THEN 'expired' ELSE 'no_report_yet' END
            WHEN 'billed_twice' THEN
                CASE WHEN l.amount = f.amount THEN 'double_same_amount' ELSE 'double_other_amount' END
            ELSE
                CASE
                    WHEN
                        l.line_sent_at >= $3
                        AND l.line_sent_at < $4
                        AND abs(l.seconds) BETWEEN 1740 AND 50460
                        AND abs(l.seconds - round(l.seconds / 1800) * 1800) <= 60
                        THEN 'time_zone'
                    WHEN l.sent_at >= $3 - INTERVAL '24 hours' AND l.sent_at < $4 + INTERVAL '24 hours'
                        THEN 'month_edge'
                    ELSE 'other_period'
                END
        END AS cause,
        l.shard,
        l.message_id,
        l.vendor_message_id,
        l.phone,
        l.line,
        l.sent_at,
        l.status,
        l.owed_segments,
        l.billed_segments,
        l.price,
        l.amount AS billed_amount,
        l.billed_segments::bigint AS segments,
        l.amount
    FROM apart AS l
    LEFT JOIN run_lines AS f
        ON l.kind = 'billed_twice' AND f.nth = 1 AND l.shard = f.shard AND l.message_id = f.message_id
    LEFT JOIN named AS u ON l.kind = 'billed_not_sent' AND l.shard = u.shard AND l.line = u.line
    UNION ALL
    SELECT
        'segments_differ',
        coalesce(t.cause, 'segments_other'),
        l.shard,
        l.message_id,
        l.vendor_message_id,
        l.phone,
        l.line,
        l.sent_at,
        l.status,
        l.owed_segments,
        l.billed_segments,
        l.price,
        l.amount,
        l.billed_segments - l.owed_segments,
        (l.billed_segments - l.owed_segments) * l.price
    FROM run_lines AS l
    LEFT JOIN run_texts AS t ON t.cause IS NOT NULL AND l.shard = t.shard AND l.message_id = t.message_id
    WHERE l.kind IS NULL AND l.billed_segments <> l.owed_segments
    UNION ALL
    SELECT
        'price_differs',
        CASE
            WHEN
                EXISTS (
                    SELECT 1
                    FROM unnest($5::numeric[]) AS p (price)
                    WHERE l.amount = l.billed_segments * p.price
                )
                THEN 'stale_tariff'
            ELSE 'price_other'
        END,
        l.shard,
        l.message_id,
        l.vendor_message_id,
        l.phone,
        l.line,
        l.sent_at,
        l.status,
        l.owed_segments,
        l.billed_segments,
        l.price,
        l.amount,
        0,
        l.amount - l.billed_segments * l.price
    FROM run_lines AS l
    WHERE l.kind IS NULL AND l.amount <> l.billed_segments * l.price
    UNION ALL
    SELECT
        'not_billed',
        CASE
            WHEN m.sent_at < $3 + INTERVAL '24 hours' OR m.sent_at >= $4 - INTERVAL '24 hours'
                THEN 'no_line_at_edge'
            ELSE 'no_line'
        END,
        m.shard,
        m.id,
        m.vendor_message_id,
        m.phone,
        NULL,
        m.sent_at,
        m.status,
        m.segments,
        NULL,
        m.price,
        NULL,
        -m.segments,
        -(m.segments * m.price)
    FROM run_messages AS m
    LEFT JOIN lined AS b ON m.shard = b.shard AND m.id = b.message_id
    WHERE m.charged AND b.message_id IS NULL
    UNION ALL
    SELECT
        k.kind,
        CASE
            WHEN k.kind = 'report_missing' THEN 'no_report'
            WHEN m.contradicted THEN 'states_contradict'
            ELSE 'charges_contradict'
        END,
        m.shard,
        m.id,
        m.vendor_message_id,
        m.phone,
        NULL,
        m.sent_at,
        m.status,
        m.segments,
        NULL,
        m.price,
        NULL,
        0,
        0
    FROM run_messages AS m
    LEFT JOIN charged_otherwise AS c ON m.shard = c.shard AND m.id = c.message_id
    INNER JOIN (VALUES ('reports_contradict'), ('report_missing')) AS k (kind)
        ON
            (k.kind = 'reports_contradict' AND (m.contradicted OR c.message_id IS NOT NULL))
            OR (k.kind = 'report_missing' AND m.missing)
    WHERE m.contradicted OR m.missing OR c.message_id IS NOT NULL
)

INSERT INTO discrepancies (
    run_id,
    seq,
    shard,
    kind,
    cause,
    message_id,
    vendor_message_id,
    phone,
    line,
    sent_at,
    status,
    owed_segments,
    billed_segments,
    price,
    billed_amount,
    segments,
    amount
)
SELECT
    $1,
    row_number() OVER (
        ORDER BY
            array_position(
                ARRAY[
                    'billed_not_sent',
                    'billed_not_delivered',
                    'billed_twice',
                    'billed_out_of_period',
                    'segments_differ',
                    'price_differs',
                    'not_billed',
                    'reports_contradict',
                    'report_missing'
                ],
                f.kind
            ),
            f.vendor_message_id COLLATE "C",
            f.phone COLLATE "C",
            f.line
    ),
    f.shard,
    f.kind,
    f.cause,
    f.message_id,
    f.vendor_message_id,
    f.phone,
    f.line,
    f.sent_at,
    f.status,
    f.owed_segments,
    f.billed_segments,
    f.price,
    f.billed_amount,
    f.segments,
    f.amount
FROM found AS f;

-- name: replay_states
-- As everywhere; the replay's own tables are joined on the coordinator.
WITH touched AS MATERIALIZED (
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

there AS MATERIALIZED (
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
),

said AS MATERIALIZED (
    SELECT t.*
    FROM there AS t
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM replay_removed AS d
            WHERE d.what = 'report' AND d.key = uuid_send(t.message_id) || t.fingerprint
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

final AS MATERIALIZED (
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

folded AS MATERIALIZED (
    SELECT DISTINCT ON (f.shard, f.message_id)
        f.shard,
        f.message_id,
        f.status
    FROM final AS f
    ORDER BY f.shard, f.message_id, f.reported_at ASC NULLS LAST, f.status, f.fingerprint
),

standing AS MATERIALIZED (
    SELECT
        m.shard,
        m.id,
        m.account,
        m.vendor_message_id,
        m.sent_at,
        m.segments,
        m.status
    FROM touched AS t
    INNER JOIN messages AS m ON t.shard = m.shard AND t.message_id = m.id
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
    FROM standing AS m
    LEFT JOIN folded AS f ON m.shard = f.shard AND m.id = f.message_id
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

-- name: settle_suspects
-- As everywhere, but that what was said before is read before.
WITH touched AS (
    SELECT
        u.shard,
        u.id,
        u.sent
    FROM unnest($1::integer[], $2::uuid[], $3::float8[]) AS u (shard, id, sent)
),

known AS MATERIALIZED (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.account,
        r.vendor_message_id,
        r.status,
        r.source,
        r.verdict,
        r.received_at,
        r.doubts,
        coalesce(t.sent > date_part('epoch', r.sent_by), FALSE) AS early,
        r.verdict IS NOT NULL
        OR r.doubts IS NOT NULL
        OR coalesce(t.sent > date_part('epoch', r.sent_by), FALSE) AS doubtful,
        r.status IN ('delivered', 'failed') AS final
    FROM touched AS t
    INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id
),

answered AS (
    SELECT
        k.*,
        min(k.status) FILTER (WHERE k.final AND k.source <> 'push') OVER message AS first_told,
        max(k.status) FILTER (WHERE k.final AND k.source <> 'push') OVER message AS last_told,
        min(k.status) FILTER (WHERE k.final AND k.source = 'query') OVER message AS first_answer,
        max(k.status) FILTER (WHERE k.final AND k.source = 'query') OVER message AS last_answer
    FROM known AS k
    WINDOW message AS (PARTITION BY k.shard, k.message_id)
),

weighed AS (
    SELECT
        a.*,
        -- What counts is denied by an answer alone; what waits by any word that we fetched.
        coalesce(
            a.final
            AND a.source = 'push'
            AND CASE
                WHEN a.doubtful AND a.verdict IS DISTINCT FROM 'accepted'
                    THEN a.status NOT IN (a.first_told, a.last_told)
                ELSE a.status NOT IN (a.first_answer, a.last_answer)
            END,
            FALSE
        ) AS denied
    FROM answered AS a
),

counted AS (
    SELECT
        w.*,
        min(w.status) FILTER (
            WHERE w.final AND (NOT w.doubtful OR w.verdict = 'accepted')
        ) OVER message AS first_counted,
        max(w.status) FILTER (
            WHERE w.final AND (NOT w.doubtful OR w.verdict = 'accepted')
        ) OVER message AS last_counted
    FROM weighed AS w
    WINDOW message AS (PARTITION BY w.shard, w.message_id)
),

judged AS (
    SELECT
        c.*,
        CASE
            WHEN c.verdict = 'rejected' THEN 'rejected'
            WHEN c.denied THEN 'contradicted'
            WHEN c.verdict = 'accepted' THEN 'accepted'
            WHEN c.first_counted IS NULL THEN 'waiting'
            WHEN NOT c.final OR c.status IN (c.first_counted, c.last_counted) THEN 'confirmed'
            ELSE 'waiting'
        END AS state,
        coalesce(c.doubts, '{}')
        || CASE WHEN c.early THEN ARRAY['before_sending'] ELSE '{}' END
        || CASE WHEN c.denied THEN ARRAY['contradicted_by_query'] ELSE '{}' END AS reasons
    FROM counted AS c
    WHERE c.source = 'push'
),

before AS MATERIALIZED (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.reasons
    FROM touched AS t
    INNER JOIN suspects AS s ON t.shard = s.shard AND t.id = s.message_id
),

marked AS (
    UPDATE reports AS r
    SET left_out = j.doubtful AND j.verdict IS DISTINCT FROM 'accepted'
    FROM judged AS j
    WHERE
        r.shard = j.shard
        AND r.message_id = j.message_id
        AND r.fingerprint = j.fingerprint
        AND r.left_out <> (j.doubtful AND j.verdict IS DISTINCT FROM 'accepted')
),

cleared AS (
    DELETE FROM suspects AS s
    USING judged AS j
    WHERE
        NOT (j.doubtful OR j.denied)
        AND s.shard = j.shard
        AND s.message_id = j.message_id
        AND s.fingerprint = j.fingerprint
),

kept AS (
    INSERT INTO suspects AS s (
        shard,
        message_id,
        fingerprint,
        account,
        vendor_message_id,
        reasons,
        state,
        received_at,
        found_at,
        changed_at
    )
    SELECT
        j.shard,
        j.message_id,
        j.fingerprint,
        j.account,
        j.vendor_message_id,
        j.reasons,
        j.state,
        j.received_at,
        $4,
        $4
    FROM judged AS j
    WHERE j.doubtful OR j.denied
    ORDER BY j.shard, j.message_id, j.fingerprint
    ON CONFLICT (shard, message_id, fingerprint) DO UPDATE
    SET
        -- What a number differed from can be registered later, and a person's word stays.
        reasons = CASE WHEN excluded.reasons = '{}' THEN s.reasons ELSE excluded.reasons END,
        state = excluded.state,
        changed_at = excluded.changed_at
    WHERE (s.reasons, s.state) IS DISTINCT FROM (excluded.reasons, excluded.state)
    RETURNING s.shard, s.message_id, s.fingerprint, s.account, s.reasons, s.state
)

SELECT
    k.account,
    k.reasons,
    k.state,
    b.reasons AS reasons_before
FROM kept AS k
LEFT JOIN before AS b
    ON k.shard = b.shard AND k.message_id = b.message_id AND k.fingerprint = b.fingerprint;

-- name: add_adjustments
-- As everywhere; the messages that only their ids are kept of are read first.
WITH then_placed AS (
    SELECT
        o.shard,
        o.key,
        coalesce(v.moved_to, o.key) AS now_key,
        o.vendor_message_id,
        o.phone,
        o.status,
        o.sent_segments,
        o.owed_segments,
        o.owed_amount,
        o.lines,
        o.billed_segments,
        o.billed_amount
    FROM outcomes AS o
    LEFT JOIN moved_messages AS v ON o.key = v.id
    WHERE o.run_id = $2
    UNION ALL
    SELECT
        NULL,
        k.key,
        k.key,
        NULL,
        NULL,
        e.status,
        e.segments,
        CASE WHEN e.charged THEN e.segments END,
        CASE WHEN e.charged THEN e.amount END,
        CASE WHEN e.charged THEN 1 ELSE 0 END,
        CASE WHEN e.charged THEN e.segments ELSE 0 END,
        CASE WHEN e.charged THEN e.amount ELSE 0 END
    FROM even_outcomes AS e
    CROSS JOIN LATERAL (
        SELECT encode(substring(e.ids FROM 16 * n.nth + 1 FOR 16), 'hex')::uuid AS key
        FROM generate_series(0, length(e.ids) / 16 - 1) AS n (nth)
    ) AS k
    WHERE e.run_id = $2
),

before AS (
    SELECT
        t.now_key AS key,
        min(t.shard) AS shard,
        min(t.vendor_message_id COLLATE "C") AS vendor_message_id,
        min(t.phone COLLATE "C") AS phone,
        min(t.status COLLATE "C") AS status,
        sum(t.sent_segments)::integer AS sent_segments,
        sum(t.owed_segments)::integer AS owed_segments,
        sum(t.owed_amount) AS owed_amount,
        sum(t.lines)::bigint AS lines,
        sum(t.billed_segments)::bigint AS billed_segments,
        sum(t.billed_amount) AS billed_amount
    FROM then_placed AS t
    GROUP BY t.now_key
),

after AS (
    SELECT
        o.shard,
        o.key,
        o.vendor_message_id,
        o.phone,
        o.status,
        o.sent_segments,
        o.owed_segments,
        o.owed_amount,
        o.lines,
        o.billed_segments,
        o.billed_amount
    FROM run_outcomes AS o
    UNION ALL
    SELECT
        NULL,
        k.key,
        NULL,
        NULL,
        w.status,
        w.segments,
        CASE WHEN w.charged THEN w.segments END,
        CASE WHEN w.charged THEN w.segments * w.price END,
        CASE WHEN w.charged THEN 1 ELSE 0 END,
        CASE WHEN w.charged THEN w.segments ELSE 0 END,
        CASE WHEN w.charged THEN w.segments * w.price ELSE 0 END
    FROM run_weighed AS w
    CROSS JOIN LATERAL (
        SELECT encode(substring(w.ids FROM 16 * n.nth + 1 FOR 16), 'hex')::uuid AS key
        FROM generate_series(0, length(w.ids) / 16 - 1) AS n (nth)
    ) AS k
    WHERE w.key IS NULL
),

changed AS MATERIALIZED (
    SELECT
        coalesce(a.key, b.key) AS key,
        coalesce(
            a.shard, b.shard, ('x' || left(replace(coalesce(a.key, b.key)::text, '-', ''), 8))::bit(32)::integer
        ) AS shard,
        coalesce(a.vendor_message_id, b.vendor_message_id) AS vendor_message_id,
        coalesce(a.phone, b.phone) AS phone,
        b.status AS status_before,
        a.status AS status_after,
        b.sent_segments AS sent_segments_before,
        a.sent_segments AS sent_segments_after,
        b.owed_segments AS owed_segments_before,
        a.owed_segments AS owed_segments_after,
        b.owed_amount AS owed_amount_before,
        a.owed_amount AS owed_amount_after,
        coalesce(b.lines, 0) AS lines_before,
        coalesce(a.lines, 0) AS lines_after,
        coalesce(b.billed_segments, 0) AS billed_segments_before,
        coalesce(a.billed_segments, 0) AS billed_segments_after,
        coalesce(b.billed_amount, 0) AS billed_amount_before,
        coalesce(a.billed_amount, 0) AS billed_amount_after
    FROM before AS b
    FULL JOIN after AS a ON b.key = a.key
    WHERE
        (
            b.status,
            b.sent_segments,
            b.owed_segments,
            b.owed_amount,
            b.lines,
            b.billed_segments,
            b.billed_amount
        )
        IS DISTINCT FROM
        (
            a.status,
            a.sent_segments,
            a.owed_segments,
            a.owed_amount,
            a.lines,
            a.billed_segments,
            a.billed_amount
        )
),

bare AS MATERIALIZED (
    SELECT
        c.shard,
        c.key
    FROM changed AS c
    WHERE c.vendor_message_id IS NULL
),

known AS MATERIALIZED (
    SELECT
        m.shard,
        m.id,
        m.vendor_message_id,
        m.phone
    FROM bare AS b
    INNER JOIN messages AS m ON b.shard = m.shard AND b.key = m.id
),

named AS (
    SELECT
        c.*,
        coalesce(c.vendor_message_id, m.vendor_message_id) AS named_id,
        coalesce(c.phone, m.phone) AS named_phone
    FROM changed AS c
    LEFT JOIN known AS m ON c.shard = m.shard AND c.key = m.id
)

INSERT INTO adjustments (
    run_id,
    seq,
    shard,
    key,
    vendor_message_id,
    phone,
    status_before,
    status_after,
    sent_segments_before,
    sent_segments_after,
    owed_segments_before,
    owed_segments_after,
    owed_amount_before,
    owed_amount_after,
    lines_before,
    lines_after,
    billed_segments_before,
    billed_segments_after,
    billed_amount_before,
    billed_amount_after
)
SELECT
    $1,
    row_number() OVER (
        ORDER BY
            n.named_id COLLATE "C",
            n.named_phone COLLATE "C",
            n.key
    ),
    n.shard,
    n.key,
    n.named_id,
    n.named_phone,
    n.status_before,
    n.status_after,
    n.sent_segments_before,
    n.sent_segments_after,
    n.owed_segments_before,
    n.owed_segments_after,
    n.owed_amount_before,
    n.owed_amount_after,
    n.lines_before,
    n.lines_after,
    n.billed_segments_before,
    n.billed_segments_after,
    n.billed_amount_before,
    n.billed_amount_after
FROM named AS n;

-- name: list_callbacks_left
-- As everywhere; the batches, which are few, are read first.
WITH unsettled AS MATERIALIZED (
    SELECT b.id
    FROM batches AS b
    WHERE $2 = 'recorded' AND b.settled_at IS NULL
),

unquarantined AS MATERIALIZED (
    SELECT u.digest
    FROM unsettled AS b
    INNER JOIN records AS u ON b.id = u.batch_id
    WHERE NOT EXISTS (SELECT 1 FROM quarantine AS q WHERE q.digest = u.digest)
),

quarantined AS MATERIALIZED (
    SELECT
        q.digest,
        q.reason
    FROM quarantine AS q
    WHERE $2 = 'quarantined' AND q.account = ANY($1::text[])
)

SELECT
    r.digest,
    r.account,
    r.received_at,
    r.last_received_at,
    r.deliveries,
    r.method,
    r.headers,
    r.peer,
    coalesce(r.purged_bytes, length(r.body)) AS bytes,
    f.reason,
    $2 AS state
FROM (
    SELECT
        q.digest,
        q.reason
    FROM quarantined AS q
    UNION ALL
    SELECT
        u.digest,
        NULL
    FROM unquarantined AS u
) AS f
INNER JOIN records AS r ON f.digest = r.digest
WHERE
    r.account = ANY($1::text[])
    AND r.source = 'push'
    AND ($3::timestamptz IS NULL OR r.received_at >= $3)
    AND ($4::timestamptz IS NULL OR r.received_at < $4)
    AND ($5::timestamptz IS NULL OR (r.received_at, r.digest) < ($5, $6::bytea))
ORDER BY r.received_at DESC, r.digest DESC
LIMIT $7;

-- name: bodies_to_purge
-- As everywhere; of batches those are read that are not settled, which are few.
WITH unsettled AS MATERIALIZED (
    SELECT b.id
    FROM batches AS b
    WHERE b.settled_at IS NULL
),

disputed AS MATERIALIZED (
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
WHERE
    r.account = $1
    AND r.received_at >= $2
    AND r.received_at < $3
    AND (r.received_at, r.digest) > ($4, $5::bytea)
    AND r.purge_id IS NULL
    AND NOT EXISTS (SELECT 1 FROM unsettled AS u WHERE u.id = r.batch_id)
ORDER BY r.received_at, r.digest
LIMIT $6;

-- name: late_bodies
-- As everywhere; of batches those are read that are not settled, which are few.
WITH unsettled AS MATERIALIZED (
    SELECT b.id
    FROM batches AS b
    WHERE b.settled_at IS NULL
)

SELECT l.digest
FROM late_records AS l
INNER JOIN records AS r ON l.digest = r.digest
WHERE
    l.account = $1
    AND NOT EXISTS (SELECT 1 FROM unsettled AS u WHERE u.id = r.batch_id)
ORDER BY l.digest
LIMIT $2;

-- name: records_to_replay
-- As everywhere; of batches those are read that are not settled, which are few.
WITH unsettled AS MATERIALIZED (
    SELECT b.id
    FROM batches AS b
    WHERE b.settled_at IS NULL
)

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
LEFT JOIN quarantine AS q ON r.digest = q.digest
WHERE
    r.account = $1
    AND (
        ($2::timestamptz IS NULL OR r.received_at >= $2) AND ($3::timestamptz IS NULL OR r.received_at < $3)
    ) <> $7::boolean
    AND (r.received_at, r.digest) > ($4, $5::bytea)
    AND r.purge_id IS NULL
    AND NOT EXISTS (SELECT 1 FROM unsettled AS u WHERE u.id = r.batch_id)
ORDER BY r.received_at, r.digest
LIMIT $6;

-- name: export_snapshot
-- None: another connection to the coordinator sees the other servers at a time of its own.
SELECT NULL::text AS statement;
