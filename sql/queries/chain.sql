-- The chain over everything recorded: linking what is not linked yet, and reading it back.

-- name: chain_head
-- Reads the newest link, if there is one, and the database's clock.
SELECT
    l.height,
    l.hash,
    l.linked_at,
    clock_timestamp() AS now
FROM (VALUES (1)) AS always (one)
LEFT JOIN (
    SELECT
        height,
        hash,
        linked_at
    FROM chain_links
    ORDER BY height DESC
    LIMIT 1
) AS l ON TRUE;

-- name: chain_behind
-- Says for how many seconds the oldest of what is not linked yet has waited, by the database's clock.
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
    SELECT min(s.imported_at)
    FROM statements AS s
    WHERE NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'statement' AND e.key = uuid_send(s.id))
    UNION ALL
    SELECT min(r.run_at)
    FROM runs AS r
    WHERE
        NOT r.assumed
        AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'run' AND e.key = uuid_send(r.id))
) AS u;

-- name: unlinked_batches
-- Finds the oldest settled batches that are in no link: at most $1, and no more once they hold $2 records.
WITH oldest AS (
    SELECT
        b.id,
        b.recorded_at
    FROM batches AS b
    WHERE b.settled_at IS NOT NULL AND b.height IS NULL
    ORDER BY b.recorded_at, b.id
    LIMIT $1
),

counted AS (
    SELECT
        o.id,
        sum(count(r.digest)) OVER (ORDER BY o.recorded_at, o.id) - count(r.digest) AS before
    FROM oldest AS o
    LEFT JOIN records AS r ON o.id = r.batch_id
    GROUP BY o.id, o.recorded_at
)

SELECT c.id
FROM counted AS c
WHERE c.before < $2;

-- name: batches_linked
-- Marks batches as being in a link.
UPDATE batches
SET height = $2
WHERE id = ANY($1::bigint[]);

-- name: records_to_link
-- Reads the records of some batches that no link has yet, in the order in which they are linked.
SELECT
    r.digest,
    r.account,
    r.received_at,
    r.headers,
    r.peer
FROM records AS r
WHERE
    r.batch_id = ANY($1::bigint[])
    AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'record' AND e.key = r.digest)
ORDER BY r.batch_id, r.digest;

-- name: take_unlinked_messages
-- Takes the oldest calls that registered messages: at most $1, and no more once they hold $2 messages.
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
        ORDER BY n.id
        LIMIT $1
    ) AS o
) AS c
WHERE u.id = c.id AND c.before < $2
RETURNING u.id, u.message_ids;

-- name: messages_to_link
-- Reads messages that no link has yet as they were registered, in the order given.
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
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS t (shard, id, place)
INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
WHERE NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'message' AND e.key = uuid_send(m.id))
ORDER BY t.place;

-- name: take_unlinked_actions
-- Takes the oldest rows of what operators did that wait to be linked, at most $1, and reads those that no link
-- has yet.
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
)

SELECT
    a.action_id,
    a.at,
    a.outcome,
    a.actor,
    a.role,
    a.via,
    a.peer,
    a.what,
    a.subject,
    a.status
FROM taken AS t
INNER JOIN operator_actions AS a ON t.id = a.id
WHERE
    NOT EXISTS (
        SELECT 1
        FROM chain_entries AS e
        WHERE
            e.kind = CASE WHEN a.outcome = 'begun' THEN 'action' ELSE 'outcome' END
            AND e.key = uuid_send(a.action_id)
    )
ORDER BY a.at, a.id;

-- name: statements_to_link
-- Reads statements that no link has yet.
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
WHERE NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'statement' AND e.key = uuid_send(s.id))
ORDER BY s.imported_at, s.id
LIMIT $1;

-- name: runs_to_link
-- Reads runs that no link has yet, once all that they can have seen is linked: so a run's link is the head of
-- its evidence. Not those that assume something, which are no evidence.
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
    AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'run' AND e.key = uuid_send(r.id))
    AND (
        r.statement_id IS NULL
        OR EXISTS (
            SELECT 1
            FROM chain_entries AS e
            WHERE e.kind = 'statement' AND e.key = uuid_send(r.statement_id)
        )
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

-- name: keep_run_reports
-- Keeps which linked reports, and replies to sending, there are on the messages that a run disputes.
INSERT INTO run_reports (run_id, shard, message_id, fingerprint, digest, reasons, state)
WITH disputed AS (
    SELECT DISTINCT
        d.shard,
        coalesce(d.message_id, l.message_id) AS message_id
    FROM discrepancies AS d
    LEFT JOIN lines AS l ON l.statement_id = $2 AND d.line = l.line AND d.shard = l.shard
    WHERE d.run_id = $1
),

found AS (
    SELECT
        r.shard,
        r.message_id,
        r.fingerprint,
        r.digest
    FROM disputed AS d
    INNER JOIN reports AS r ON d.shard = r.shard AND d.message_id = r.message_id
    UNION ALL
    SELECT
        m.shard,
        m.id,
        ''::bytea,
        s.digest
    FROM disputed AS d
    INNER JOIN messages AS m ON d.shard = m.shard AND d.message_id = m.id
    INNER JOIN submissions AS s ON m.submission_id = s.id
    WHERE s.digest IS NOT NULL
)

SELECT
    $1,
    f.shard,
    f.message_id,
    f.fingerprint,
    f.digest,
    s.reasons,
    s.state
FROM found AS f
LEFT JOIN suspects AS s
    ON f.shard = s.shard AND f.message_id = s.message_id AND f.fingerprint = s.fingerprint
WHERE EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'record' AND e.key = f.digest);

-- name: add_link
-- Adds a link.
INSERT INTO chain_links (height, previous, root, entries, linked_at, hash, token)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: lines_in_order
-- Reads every line of a statement.
SELECT
    line,
    vendor_message_id,
    phone,
    segments,
    amount,
    sent_at,
    status
FROM lines
WHERE statement_id = $1
ORDER BY line, shard;

-- name: discrepancies_in_order
-- Reads every discrepancy of a run.
SELECT
    seq,
    kind,
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
    amount,
    cause
FROM discrepancies
WHERE run_id = $1
ORDER BY seq, shard;

-- name: run_reports_in_order
-- Reads the reports that were linked with a run; one that a replay has superseded as it was, one whose row is gone
-- without a status.
SELECT
    k.message_id,
    k.fingerprint,
    k.digest,
    k.reasons,
    k.state,
    coalesce(s.status, r.status) AS status,
    coalesce(s.vendor_code, r.vendor_code) AS vendor_code,
    CASE WHEN s.digest IS NULL THEN r.reason ELSE s.reason END AS reason,
    CASE WHEN s.digest IS NULL THEN r.reported_at ELSE s.reported_at END AS reported_at,
    coalesce(s.received_at, r.received_at) AS received_at,
    coalesce(s.source, r.source) AS source,
    CASE WHEN s.digest IS NULL THEN r.billed_segments ELSE s.billed_segments END AS billed_segments,
    CASE WHEN s.digest IS NULL THEN r.billed_price ELSE s.billed_price END AS billed_price,
    CASE WHEN s.digest IS NULL THEN r.billed_amount ELSE s.billed_amount END AS billed_amount,
    CASE WHEN s.digest IS NULL THEN r.billed_currency ELSE s.billed_currency END AS billed_currency
FROM run_reports AS k
LEFT JOIN reports AS r
    ON k.shard = r.shard AND k.message_id = r.message_id AND k.fingerprint = r.fingerprint
LEFT JOIN superseded_reports AS s
    ON
        k.shard = s.shard
        AND k.message_id = s.message_id
        AND k.fingerprint = s.fingerprint
        AND k.digest = s.digest
WHERE k.run_id = $1
ORDER BY k.message_id, k.fingerprint;

-- name: chain_links
-- Reads links from one height to another.
SELECT
    height,
    previous,
    root,
    entries,
    linked_at,
    hash
FROM chain_links
WHERE height >= $1 AND ($2::bigint IS NULL OR height <= $2)
ORDER BY height;

-- name: entries_of_link
-- Reads the entries of one link in their order.
SELECT
    position,
    kind,
    key,
    account,
    at,
    content
FROM chain_entries
WHERE height = $1
ORDER BY position;

-- name: records_to_verify
-- Reads records whole, by digest; of a purged one also what was linked of what its digest does not cover.
SELECT
    r.digest,
    r.account,
    r.source,
    r.call,
    r.subject,
    r.received_at,
    r.method,
    r.query,
    r.headers,
    r.body,
    r.peer,
    CASE WHEN r.purge_id IS NOT NULL THEN e.content END AS purged_content
FROM records AS r
LEFT JOIN chain_entries AS e ON r.digest = e.key AND e.kind = 'record'
WHERE r.digest = ANY($1::bytea[]);

-- name: messages_to_verify
-- Reads messages as they were registered; of a purged one also what was linked of it.
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
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
LEFT JOIN chain_entries AS e ON uuid_send(m.id) = e.key AND e.kind = 'message';

-- name: actions_to_verify
-- Reads what operators did: with $2 how actions ended, else what began.
SELECT
    a.action_id,
    a.at,
    a.outcome,
    a.actor,
    a.role,
    a.via,
    a.peer,
    a.what,
    a.subject,
    a.status
FROM operator_actions AS a
WHERE a.action_id = ANY($1::uuid[]) AND (a.outcome = 'begun') <> $2::boolean;

-- name: statement
-- Reads one statement.
SELECT
    id,
    account,
    first_day,
    last_day,
    version,
    file_digest,
    file_name,
    format,
    lines,
    segments,
    amount,
    imported_at,
    lines_sha256
FROM statements
WHERE id = $1;

-- name: unlinked_in_linked
-- Finds what stands among the linked and no link has: records of linked batches or of no batch at all, and
-- messages that nobody registered; batches that say they are in a link that is not there; what nobody did; and
-- purges that nobody made.
WITH waiting AS (
    SELECT unnest(u.message_ids) AS id
    FROM unlinked_messages AS u
)

SELECT
    'record' AS kind,
    encode(r.digest, 'hex') AS key,
    b.height
FROM records AS r
LEFT JOIN batches AS b ON r.batch_id = b.id
WHERE
    (b.id IS NULL OR b.height IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'record' AND e.key = r.digest)
UNION ALL
SELECT
    'message',
    m.id::text,
    NULL
FROM messages AS m
WHERE
    m.vendor_message_id NOT LIKE '~%'
    AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'message' AND e.key = uuid_send(m.id))
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
FROM chain_entries AS e
WHERE NOT EXISTS (SELECT 1 FROM chain_links AS l WHERE l.height = e.height)
GROUP BY e.height
UNION ALL
SELECT
    k.kind,
    a.action_id::text,
    NULL
FROM operator_actions AS a
CROSS JOIN LATERAL (SELECT CASE WHEN a.outcome = 'begun' THEN 'action' ELSE 'outcome' END AS kind) AS k
WHERE
    NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = k.kind AND e.key = uuid_send(a.action_id))
    AND NOT EXISTS (SELECT 1 FROM unlinked_actions AS u WHERE u.id = a.id)
UNION ALL
SELECT
    'purge',
    p.id::text,
    NULL
FROM purges AS p
WHERE
    p.linked
    AND NOT EXISTS (SELECT 1 FROM chain_entries AS e WHERE e.kind = 'purge' AND e.key = uuid_send(p.id))
UNION ALL
SELECT DISTINCT
    'purge',
    n.purge_id::text,
    NULL::bigint
FROM (
    SELECT r.purge_id
    FROM records AS r
    WHERE r.purge_id IS NOT NULL
    UNION ALL
    SELECT m.purge_id
    FROM messages AS m
    WHERE m.purge_id IS NOT NULL
) AS n
WHERE NOT EXISTS (SELECT 1 FROM purges AS p WHERE p.id = n.purge_id);

-- name: height_of_hash
-- Says at what height a link stands.
SELECT height
FROM chain_links
WHERE hash = $1;

-- name: run_linked
-- Says in which link a run is.
SELECT e.height
FROM chain_entries AS e
WHERE e.kind = 'run' AND e.key = uuid_send($1::uuid);

-- name: evidence_tables
-- Makes the working table of this connection: what a package proves.
CREATE TEMPORARY TABLE IF NOT EXISTS evidence (
    height bigint NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL,
    key bytea NOT NULL,
    account text NOT NULL,
    at timestamptz NOT NULL,
    content bytea NOT NULL
) ON COMMIT DELETE ROWS;

-- name: take_evidence
-- Takes the entries of a run's own link or below that its package is made of: the run, its statement, the
-- messages it disputes, the records of their reports.
INSERT INTO evidence (height, position, kind, key, account, at, content)
SELECT
    e.height,
    e.position,
    e.kind,
    e.key,
    e.account,
    e.at,
    e.content
FROM (
    SELECT
        'run' AS kind,
        uuid_send($1::uuid) AS key
    UNION ALL
    SELECT
        'statement',
        uuid_send($2::uuid)
    UNION
    SELECT
        'message',
        uuid_send(d.message_id)
    FROM discrepancies AS d
    WHERE d.run_id = $1 AND d.message_id IS NOT NULL
    UNION
    SELECT
        'record',
        k.digest
    FROM run_reports AS k
    WHERE k.run_id = $1
) AS n
INNER JOIN chain_entries AS e ON n.key = e.key AND n.kind = e.kind
WHERE e.height <= $3;

-- name: evidence_in_order
-- Reads what a package proves, link by link.
SELECT
    height,
    position,
    kind,
    key,
    account,
    at,
    content
FROM evidence
ORDER BY height, position;

-- name: evidence_messages
-- Reads the messages of a package as they were registered.
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
    p.purged_at
FROM (
    SELECT DISTINCT
        d.shard,
        d.message_id
    FROM discrepancies AS d
    INNER JOIN evidence AS e ON e.kind = 'message' AND e.key = uuid_send(d.message_id)
    WHERE d.run_id = $1
) AS t
INNER JOIN messages AS m ON t.shard = m.shard AND t.message_id = m.id
LEFT JOIN purges AS p ON m.purge_id = p.id
ORDER BY m.id;

-- name: evidence_records
-- Reads the records of a package whole.
SELECT
    r.digest,
    r.account,
    r.source,
    r.call,
    r.subject,
    r.received_at,
    r.method,
    r.query,
    r.headers,
    r.body,
    r.peer,
    p.purged_at
FROM evidence AS e
INNER JOIN records AS r ON e.key = r.digest
LEFT JOIN purges AS p ON r.purge_id = p.id
WHERE e.kind = 'record'
ORDER BY r.digest;
