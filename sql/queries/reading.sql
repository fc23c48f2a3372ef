-- What the API reads. Lists go by key and not by offset, the newest first.

-- name: list_messages
-- Lists messages of some accounts by time sent.
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
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    SELECT
        c.id,
        c.account,
        c.vendor_message_id,
        c.phone,
        c.status,
        c.segments,
        c.sent_at,
        c.reported_at,
        c.vendor_code,
        c.reason,
        c.reference,
        c.contradicted
    FROM messages AS c
    WHERE
        c.account = a.account
        AND ($2::text IS NULL OR c.reference = $2)
        AND ($3::text IS NULL OR c.status = $3)
        AND ($4::timestamptz IS NULL OR c.sent_at >= $4)
        AND ($5::timestamptz IS NULL OR c.sent_at < $5)
        AND ($6::timestamptz IS NULL OR (c.sent_at, c.id) < ($6, $7::uuid))
    ORDER BY c.sent_at DESC, c.id DESC
    LIMIT $8
) AS m
ORDER BY m.sent_at DESC, m.id DESC
LIMIT $8;

-- name: list_messages_of_phone
-- Lists messages to one number, of some accounts.
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
    m.phone = $9
    AND m.account = ANY($1::text[])
    AND ($2::text IS NULL OR m.reference = $2)
    AND ($3::text IS NULL OR m.status = $3)
    AND ($4::timestamptz IS NULL OR m.sent_at >= $4)
    AND ($5::timestamptz IS NULL OR m.sent_at < $5)
    AND ($6::timestamptz IS NULL OR (m.sent_at, m.id) < ($6, $7::uuid))
ORDER BY m.sent_at DESC, m.id DESC
LIMIT $8;

-- name: list_messages_of_reference
-- Lists messages of our own reference, of some accounts.
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
    m.reference = $2
    AND m.account = ANY($1::text[])
    AND ($3::text IS NULL OR m.status = $3)
    AND ($4::timestamptz IS NULL OR m.sent_at >= $4)
    AND ($5::timestamptz IS NULL OR m.sent_at < $5)
    AND ($6::timestamptz IS NULL OR (m.sent_at, m.id) < ($6, $7::uuid))
ORDER BY m.sent_at DESC, m.id DESC
LIMIT $8;

-- name: list_messages_of_vendor_id
-- Lists the messages that a vendor's id names, of some accounts; the shards are those of the id.
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
    m.shard = ANY($9::integer[])
    AND m.vendor_message_id = $10
    AND ($11::text IS NULL OR m.phone = $11)
    AND m.account = ANY($1::text[])
    AND ($2::text IS NULL OR m.reference = $2)
    AND ($3::text IS NULL OR m.status = $3)
    AND ($4::timestamptz IS NULL OR m.sent_at >= $4)
    AND ($5::timestamptz IS NULL OR m.sent_at < $5)
    AND ($6::timestamptz IS NULL OR (m.sent_at, m.id) < ($6, $7::uuid))
ORDER BY m.sent_at DESC, m.id DESC
LIMIT $8;

-- name: message
-- Reads one message whole.
SELECT
    m.id,
    m.account,
    m.vendor_message_id,
    m.phone,
    m.status,
    m.segments,
    m.segments_given,
    m.sent_at,
    m.registered_at,
    m.reported_at,
    m.vendor_code,
    m.reason,
    m.reference,
    m.contradicted,
    m.content,
    m.sign,
    m.template_id,
    m.submission_id,
    m.outcome_by
FROM messages AS m
WHERE m.shard = $1 AND m.id = $2;

-- name: reports_of_message
-- Reads every report on a message, in the order of the vendor's time.
SELECT
    r.status,
    r.vendor_code,
    r.reason,
    r.reported_at,
    r.received_at,
    r.source,
    r.digest,
    r.billed_segments,
    r.billed_price,
    r.billed_amount,
    r.billed_currency,
    r.left_out,
    r.message_id,
    r.fingerprint,
    s.reasons,
    s.state
FROM reports AS r
LEFT JOIN suspects AS s
    ON r.shard = s.shard AND r.message_id = s.message_id AND r.fingerprint = s.fingerprint
WHERE r.shard = $1 AND r.message_id = $2
ORDER BY r.reported_at NULLS LAST, r.status, r.fingerprint;

-- name: lines_of_message
-- Reads the statement lines that bill a message, by their phone or by the vendor's id alone.
SELECT
    s.id AS statement_id,
    s.first_day,
    s.last_day,
    s.version,
    l.line,
    l.segments,
    l.amount,
    l.status
FROM lines AS l
INNER JOIN statements AS s ON l.statement_id = s.id
WHERE
    l.shard = $1
    AND s.account = $3
    AND (l.message_id = $2 OR (l.message_id IS NULL AND l.vendor_message_id = $4))
ORDER BY s.first_day, s.last_day, s.version, l.line;

-- name: discrepancies_of_message
-- Reads what reconciliation found on a message.
SELECT
    d.run_id,
    r.first_day,
    r.last_day,
    d.kind,
    d.cause,
    d.line,
    d.segments,
    d.amount
FROM discrepancies AS d
INNER JOIN runs AS r ON d.run_id = r.id
WHERE d.shard = $1 AND d.message_id = $2 AND NOT r.assumed
ORDER BY r.run_at, d.seq;

-- name: list_callbacks
-- Lists pushed callbacks of some accounts with their state.
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
    q.reason,
    CASE
        WHEN q.digest IS NOT NULL THEN 'quarantined'
        WHEN b.settled_at IS NOT NULL THEN 'settled'
        ELSE 'recorded'
    END AS state
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    SELECT
        r.digest,
        r.account,
        r.received_at,
        r.last_received_at,
        r.deliveries,
        r.method,
        r.headers,
        r.peer,
        r.batch_id,
        coalesce(r.purged_bytes, length(r.body)) AS bytes
    FROM records AS r
    LEFT JOIN batches AS s ON r.batch_id = s.id
    LEFT JOIN quarantine AS n ON r.digest = n.digest
    WHERE
        r.account = a.account
        AND r.source = 'push'
        AND (
            $2::text IS NULL
            OR $2 = CASE
                WHEN n.digest IS NOT NULL THEN 'quarantined'
                WHEN s.settled_at IS NOT NULL THEN 'settled'
                ELSE 'recorded'
            END
        )
        AND ($3::timestamptz IS NULL OR r.received_at >= $3)
        AND ($4::timestamptz IS NULL OR r.received_at < $4)
        AND ($5::timestamptz IS NULL OR (r.received_at, r.digest) < ($5, $6::bytea))
    ORDER BY r.received_at DESC, r.digest DESC
    LIMIT $7
) AS c
LEFT JOIN batches AS b ON c.batch_id = b.id
LEFT JOIN quarantine AS q ON c.digest = q.digest
ORDER BY c.received_at DESC, c.digest DESC
LIMIT $7;

-- name: list_callbacks_left
-- Lists pushed callbacks of some accounts that are quarantined, or recorded and not settled yet: few among
-- many, so these are looked for and not all the others passed over. Each side by itself: how many the other
-- may have must not be what this one is planned for.
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
    $2 AS state
FROM quarantine AS q
INNER JOIN records AS r ON q.digest = r.digest
WHERE
    $2 = 'quarantined'
    AND q.account = ANY($1::text[])
    AND r.account = ANY($1::text[])
    AND r.source = 'push'
    AND ($3::timestamptz IS NULL OR r.received_at >= $3)
    AND ($4::timestamptz IS NULL OR r.received_at < $4)
    AND ($5::timestamptz IS NULL OR (r.received_at, r.digest) < ($5, $6::bytea))
UNION ALL
SELECT
    r.digest,
    r.account,
    r.received_at,
    r.last_received_at,
    r.deliveries,
    r.method,
    r.headers,
    r.peer,
    coalesce(r.purged_bytes, length(r.body)),
    NULL,
    $2
FROM batches AS b
INNER JOIN records AS r ON b.id = r.batch_id
LEFT JOIN quarantine AS q ON r.digest = q.digest
WHERE
    $2 = 'recorded'
    AND b.settled_at IS NULL
    AND q.digest IS NULL
    AND r.account = ANY($1::text[])
    AND r.source = 'push'
    AND ($3::timestamptz IS NULL OR r.received_at >= $3)
    AND ($4::timestamptz IS NULL OR r.received_at < $4)
    AND ($5::timestamptz IS NULL OR (r.received_at, r.digest) < ($5, $6::bytea))
ORDER BY received_at DESC, digest DESC
LIMIT $7;

-- name: story_of_record
-- Reads what became of a record of some accounts, with the bytes to parse it again; and when each was.
SELECT
    r.digest,
    r.account,
    r.source,
    r.call,
    r.subject,
    r.received_at,
    r.last_received_at,
    r.deliveries,
    r.method,
    r.query,
    r.headers,
    r.body,
    r.peer,
    r.batch_id,
    b.recorder,
    b.recorded_at,
    b.taken_up_at,
    b.settled_at,
    q.quarantined_at,
    q.reason,
    l.height,
    l.linked_at,
    p.purged_at
FROM records AS r
LEFT JOIN batches AS b ON r.batch_id = b.id
LEFT JOIN quarantine AS q ON r.digest = q.digest
LEFT JOIN chain_links AS l ON b.height = l.height
LEFT JOIN purges AS p ON r.purge_id = p.id
WHERE r.digest = $1 AND r.account = ANY($2::text[]);

-- name: story_of_reports
-- Reads which of some messages have a report that came in a record, and what became of it.
SELECT
    r.message_id,
    r.vendor_message_id,
    r.status,
    r.vendor_code,
    r.orphan,
    r.left_out,
    m.registered_at,
    m.status AS message_status
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN reports AS r ON t.shard = r.shard AND t.id = r.message_id
LEFT JOIN messages AS m ON r.shard = m.shard AND r.message_id = m.id
WHERE r.digest = $3
ORDER BY r.message_id, r.fingerprint;

-- name: record_body
-- Reads the exact bytes of a record; of a purged one when that was.
SELECT
    r.body,
    r.query,
    r.source,
    p.purged_at
FROM records AS r
LEFT JOIN purges AS p ON r.purge_id = p.id
WHERE r.digest = $1;

-- name: list_reviews
-- Lists signs or templates of some accounts with their state.
SELECT
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
FROM reviews AS r
WHERE
    r.account = ANY($1::text[])
    AND r.kind = $2
    AND ($3::text IS NULL OR r.status = $3)
    AND ($4::text IS NULL OR (r.account, r.vendor_id) > ($4, $5::text))
ORDER BY r.account, r.vendor_id
LIMIT $6;

-- name: review
-- Reads one sign or template with its state.
SELECT
    account,
    kind,
    vendor_id,
    status,
    vendor_code,
    name,
    content,
    remark,
    reason,
    created_at,
    updated_at
FROM reviews
WHERE account = $1 AND kind = $2 AND vendor_id = $3;

-- name: history_of_reviews
-- Reads every word of the vendor on some signs or templates, oldest first.
SELECT
    h.account,
    h.vendor_id,
    h.status,
    h.vendor_code,
    h.reason,
    h.created_at,
    h.updated_at,
    h.received_at,
    h.source,
    h.digest
FROM unnest($1::text[], $2::text[]) AS t (account, vendor_id)
INNER JOIN review_results AS h ON t.account = h.account AND t.vendor_id = h.vendor_id
WHERE h.kind = $3
ORDER BY h.account, h.vendor_id, h.updated_at NULLS LAST, h.received_at, h.fingerprint;

-- name: list_inbound
-- Lists messages from handsets to some accounts, the newest first.
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
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    SELECT
        c.fingerprint,
        c.account,
        c.phone,
        c.content,
        c.sent_at,
        c.received_at,
        c.extension,
        c.vendor_message_id,
        c.source,
        c.digest
    FROM inbound AS c
    WHERE
        c.account = a.account
        AND ($2::text IS NULL OR c.phone = $2)
        AND ($3::timestamptz IS NULL OR c.received_at >= $3)
        AND ($4::timestamptz IS NULL OR c.received_at < $4)
        AND ($5::timestamptz IS NULL OR (c.received_at, c.fingerprint) < ($5, $6::bytea))
    ORDER BY c.received_at DESC, c.fingerprint DESC
    LIMIT $7
) AS i
ORDER BY i.received_at DESC, i.fingerprint DESC
LIMIT $7;

-- name: list_balances
-- Lists readings of what some accounts have left, the newest first.
SELECT
    b.account,
    b.kind,
    b.amount,
    b.currency,
    b.read_at,
    b.call,
    b.digest
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    SELECT
        c.account,
        c.kind,
        c.amount,
        c.currency,
        c.read_at,
        c.call,
        c.digest
    FROM balances AS c
    WHERE
        c.account = a.account
        AND ($2::text IS NULL OR c.kind = $2)
        AND ($3::timestamptz IS NULL OR c.read_at >= $3)
        AND ($4::timestamptz IS NULL OR c.read_at < $4)
        AND ($5::timestamptz IS NULL OR (c.read_at, c.kind, c.digest) < ($5, $6::text, $7::bytea))
    ORDER BY c.read_at DESC, c.kind DESC, c.digest DESC
    LIMIT $8
) AS b
ORDER BY b.read_at DESC, b.kind DESC, b.digest DESC
LIMIT $8;

-- name: balances_of_record
-- Reads what a vendor said in one record that an account has left.
SELECT
    account,
    kind,
    amount,
    currency,
    read_at,
    call,
    digest
FROM balances
WHERE account = $1 AND digest = $2
ORDER BY kind;

-- name: newest_balances
-- Reads what each of some accounts had left when its vendor last said so, of each kind, skipping from kind
-- to kind so that the readings before are not looked at.
WITH RECURSIVE kinds AS (
    SELECT
        a.account,
        (SELECT min(b.kind) FROM balances AS b WHERE b.account = a.account) AS kind
    FROM unnest($1::text[]) AS a (account)
    UNION ALL
    SELECT
        k.account,
        (SELECT min(b.kind) FROM balances AS b WHERE b.account = k.account AND b.kind > k.kind)
    FROM kinds AS k
    WHERE k.kind IS NOT NULL
)

SELECT
    k.account,
    k.kind,
    n.amount
FROM kinds AS k
CROSS JOIN LATERAL (
    SELECT b.amount
    FROM balances AS b
    WHERE b.account = k.account AND b.kind = k.kind
    ORDER BY b.read_at DESC, b.digest DESC
    LIMIT 1
) AS n;

-- name: list_orphans
-- Lists messages that the ledger does not know, of some accounts, by the first report that came of each, the
-- newest first; their state is the fold of their reports.
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
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
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
        r.account = a.account
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
) AS o
CROSS JOIN LATERAL (
    SELECT
        r.status,
        r.vendor_code,
        r.reason,
        r.reported_at,
        r.source,
        r.digest,
        count(*) OVER () AS reports
    FROM reports AS r
    WHERE r.shard = o.shard AND r.message_id = o.message_id
    ORDER BY
        r.left_out,
        r.status NOT IN ('delivered', 'failed'),
        r.reported_at NULLS LAST,
        r.status,
        r.fingerprint
    LIMIT 1
) AS s
ORDER BY o.received_at DESC, o.message_id DESC, o.fingerprint DESC
LIMIT $7;

-- name: answers
-- Proves that the database answers.
SELECT 1;

-- name: list_jobs
-- Lists what each job did last, and who runs it now.
SELECT
    j.name,
    j.account,
    j.started_at,
    j.finished_at,
    j.runs,
    j.failures,
    j.failures_in_row,
    j.error,
    j.again_at,
    j.detail,
    l.holder
FROM jobs AS j
LEFT JOIN leases AS l ON l.name = j.name || ':' || j.account AND l.expires_at > now()
ORDER BY j.name, j.account;

-- name: list_pulls
-- Lists read-once pulls, the newest first, of one account and state or all.
SELECT
    p.id,
    p.account,
    p.call,
    p.state,
    p.asked_rows,
    p.rows,
    p.intended_at,
    p.finished_at,
    p.digest,
    p.error
FROM pulls AS p
WHERE
    ($1::text IS NULL OR p.account = $1)
    AND ($2::text IS NULL OR p.state = $2)
    AND ($3::timestamptz IS NULL OR (p.intended_at, p.id) < ($3, $4::uuid))
ORDER BY p.intended_at DESC, p.id DESC
LIMIT $5;

-- name: audit_balances
-- Lists, of one account, each reading with the one before it of its kind, and what was sent and owed between the
-- two; after a kind, time and digest with a cursor. The first interval begins before the period, with the last
-- reading there is, so that every interval belongs to one period: the one that it ends in. $4 to $7 are the
-- tariffs, $8 says whether the vendor reports at all.
WITH read AS (
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

shown AS (
    SELECT r.*
    FROM read AS r
    WHERE r.before_at IS NOT NULL AND ($9::text IS NULL OR (r.kind, r.read_at, r.digest) > ($9, $10, $11::bytea))
    ORDER BY r.kind, r.read_at, r.digest
    LIMIT $12
)

SELECT
    s.kind,
    s.currency,
    s.before_at,
    s.read_at,
    s.before,
    s.amount,
    s.digest,
    w.messages,
    w.segments,
    w.owed_segments,
    w.owed_amount,
    w.untariffed_at
FROM shown AS s
CROSS JOIN LATERAL (
    SELECT
        count(m.id) AS messages,
        coalesce(sum(m.segments), 0)::bigint AS segments,
        coalesce(sum(m.segments) FILTER (WHERE c.charged), 0)::bigint AS owed_segments,
        coalesce(sum(m.segments * t.price) FILTER (WHERE c.charged), 0) AS owed_amount,
        min(m.sent_at) FILTER (WHERE t.price IS NULL) AS untariffed_at
    FROM messages AS m
    LEFT JOIN
        unnest($4::timestamptz[], $5::timestamptz[], $6::numeric[], $7::text[]) AS t (starts, ends, price, basis)
        ON m.sent_at >= t.starts AND m.sent_at < t.ends
    CROSS JOIN LATERAL (
        SELECT
            m.status NOT IN ('submitting', 'indeterminate')
            AND (t.basis = 'submitted' OR m.status = 'delivered' OR (m.status = 'submitted' AND NOT $8::boolean))
            AS charged
    ) AS c
    WHERE m.account = $1 AND m.sent_at > s.before_at AND m.sent_at <= s.read_at AND m.status <> 'refused'
) AS w
ORDER BY s.kind, s.read_at, s.digest;
