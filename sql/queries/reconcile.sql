-- Reconciliation of one account's period. All of it runs in one repeatable-read transaction; the two
-- temporary tables empty themselves at its end.

-- name: reconcile_tables
-- Makes the working tables of this connection.
CREATE TEMPORARY TABLE IF NOT EXISTS run_messages (
    shard integer NOT NULL,
    id uuid NOT NULL,
    vendor_message_id text NOT NULL,
    phone text NOT NULL,
    sent_at timestamptz NOT NULL,
    status text NOT NULL,
    contradicted boolean NOT NULL,
    missing boolean NOT NULL,
    segments integer NOT NULL,
    price numeric,
    charged boolean
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS run_lines (
    line integer NOT NULL,
    shard integer NOT NULL,
    message_id uuid,
    vendor_message_id text NOT NULL,
    phone text,
    sent_at timestamptz,
    status text,
    in_period boolean NOT NULL,
    kind text,
    owed_segments integer,
    billed_segments integer NOT NULL,
    price numeric,
    amount numeric
) ON COMMIT DELETE ROWS;

-- name: analyze_run
-- Tells the planner how much there is in the working tables.
ANALYZE run_messages, run_lines;

-- name: take_messages
-- Takes the messages sent in the period, each with its day's price and whether it is charged for.
-- ASSUMPTION: on the basis 'submitted' every message that was sent is charged for, whatever became of it;
-- on 'delivered' only those whose state is delivered.
-- ASSUMPTION: where the vendor reports nothing ($9 is false), 'submitted' is the last that can be known, so on
-- 'delivered' it is charged for too, and no report is missing.
-- A refused message was never sent; of one that is submitting or indeterminate nobody knows, so it is not
-- charged for.
INSERT INTO run_messages (
    shard,
    id,
    vendor_message_id,
    phone,
    sent_at,
    status,
    contradicted,
    missing,
    segments,
    price,
    charged
)
SELECT
    m.shard,
    m.id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.status,
    m.contradicted,
    $9::boolean AND m.status NOT IN ('delivered', 'failed') AND m.sent_at <= $4,
    m.segments,
    t.price,
    m.status NOT IN ('submitting', 'indeterminate')
    AND (t.basis = 'submitted' OR m.status = 'delivered' OR (m.status = 'submitted' AND NOT $9))
FROM messages AS m
LEFT JOIN
    unnest($5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::text[]) AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE m.account = $1 AND m.sent_at >= $2 AND m.sent_at < $3 AND m.status <> 'refused';

-- name: take_lines
-- Takes the statement's lines with the message that each names, and says which of the first four kinds
-- of discrepancy a line is, if any; in the order of interface section 6 a line is only one of them.
-- ASSUMPTION: a line for an unknown message without an amount is priced by the day that the line names, or
-- else by the period's first day. Without an amount a line is taken at its segments times our price.
-- A message that nobody knows to have been sent is as good as not registered: no line is for it.
WITH bound AS (
    SELECT
        l.line,
        l.shard,
        l.vendor_message_id,
        l.phone,
        l.segments,
        l.amount,
        l.sent_at AS line_sent_at,
        m.id AS message_id,
        m.phone AS message_phone,
        m.sent_at,
        m.status,
        m.segments AS owed_segments
    FROM lines AS l
    LEFT JOIN messages AS m
        ON
            l.shard = m.shard
            AND l.message_id = m.id
            AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
    WHERE l.statement_id = $1 AND l.message_id IS NOT NULL
    UNION ALL
    SELECT
        l.line,
        l.shard,
        l.vendor_message_id,
        l.phone,
        l.segments,
        l.amount,
        l.sent_at,
        m.id,
        m.phone,
        m.sent_at,
        m.status,
        m.segments
    FROM lines AS l
    LEFT JOIN messages AS m
        ON
            l.shard = m.shard
            AND m.account = $2
            AND l.vendor_message_id = m.vendor_message_id
            AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
    WHERE l.statement_id = $1 AND l.message_id IS NULL
),

numbered AS (
    SELECT
        b.*,
        coalesce(b.sent_at, b.line_sent_at, $3::timestamptz) AS priced_at,
        row_number() OVER (PARTITION BY b.shard, b.message_id ORDER BY b.line) AS nth
    FROM bound AS b
)

INSERT INTO run_lines (
    line,
    shard,
    message_id,
    vendor_message_id,
    phone,
    sent_at,
    status,
    in_period,
    kind,
    owed_segments,
    billed_segments,
    price,
    amount
)
SELECT
    n.line,
    n.shard,
    n.message_id,
    n.vendor_message_id,
    coalesce(n.phone, n.message_phone),
    n.sent_at,
    n.status,
    coalesce(n.sent_at >= $3 AND n.sent_at < $4, FALSE),
    CASE
        WHEN n.message_id IS NULL THEN 'billed_not_sent'
        WHEN t.basis = 'delivered' AND n.status <> 'delivered' AND ($9::boolean OR n.status <> 'submitted')
            THEN 'billed_not_delivered'
        WHEN n.nth > 1 THEN 'billed_twice'
        WHEN NOT (n.sent_at >= $3 AND n.sent_at < $4) THEN 'billed_out_of_period'
    END,
    n.owed_segments,
    n.segments,
    t.price,
    coalesce(n.amount, n.segments * t.price)
FROM numbered AS n
LEFT JOIN
    unnest($5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::text[]) AS t (starts, ends, price, basis)
    ON n.priced_at >= t.starts AND n.priced_at < t.ends;

-- name: run_troubles
-- Finds what makes a run of statement $1, of a period from $2 on, impossible: a day without a tariff, a line
-- that names several messages.
SELECT
    u.line AS unpriced_line,
    u.priced_at AS unpriced_at,
    (SELECT min(m.sent_at) FROM run_messages AS m WHERE m.price IS NULL) AS untariffed_message,
    (
        SELECT min(d.line)
        FROM (SELECT l.line FROM run_lines AS l GROUP BY l.line HAVING count(*) > 1) AS d
    ) AS ambiguous_line
FROM (VALUES (1)) AS always (one)
LEFT JOIN (
    SELECT
        r.line,
        coalesce(r.sent_at, l.sent_at, $2::timestamptz) AS priced_at
    FROM run_lines AS r
    INNER JOIN lines AS l ON r.line = l.line AND r.shard = l.shard
    WHERE r.amount IS NULL AND l.statement_id = $1
    ORDER BY r.line
    LIMIT 1
) AS u ON TRUE;

-- name: add_discrepancies
-- Keeps every discrepancy of the run, numbered in an order that a rerun repeats.
WITH lined AS (
    SELECT DISTINCT
        l.shard,
        l.message_id
    FROM run_lines AS l
    WHERE l.in_period
),

found AS (
    SELECT
        l.kind,
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
    FROM run_lines AS l
    WHERE l.kind IS NOT NULL
    UNION ALL
    SELECT
        'segments_differ',
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
    WHERE l.kind IS NULL AND l.billed_segments <> l.owed_segments
    UNION ALL
    SELECT
        'price_differs',
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
    INNER JOIN (VALUES ('reports_contradict'), ('report_missing')) AS k (kind)
        ON (k.kind = 'reports_contradict' AND m.contradicted) OR (k.kind = 'report_missing' AND m.missing)
    WHERE m.contradicted OR m.missing
)

INSERT INTO discrepancies (
    run_id,
    seq,
    shard,
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

-- name: count_messages
-- Counts the period's messages, what is owed for them, and the class that each falls into.
WITH lined AS (
    SELECT
        l.shard,
        l.message_id,
        bool_or(
            l.kind IS NOT NULL
            OR l.billed_segments <> l.owed_segments
            OR l.amount <> l.billed_segments * l.price
        ) AS discrepant
    FROM run_lines AS l
    WHERE l.in_period
    GROUP BY l.shard, l.message_id
)

SELECT
    count(*) AS messages,
    coalesce(sum(m.segments), 0)::bigint AS segments,
    count(*) FILTER (WHERE m.charged) AS owed_messages,
    coalesce(sum(m.segments) FILTER (WHERE m.charged), 0)::bigint AS owed_segments,
    coalesce(sum(m.segments * m.price) FILTER (WHERE m.charged), 0) AS owed_amount,
    count(*) FILTER (WHERE NOT b.discrepant) AS matched,
    count(*) FILTER (WHERE b.discrepant) AS discrepant,
    count(*) FILTER (WHERE b.message_id IS NULL AND m.charged) AS not_billed,
    count(*) FILTER (WHERE b.message_id IS NULL AND NOT m.charged) AS not_charged,
    count(*) FILTER (WHERE m.missing) AS report_missing,
    count(*) FILTER (WHERE m.status = 'submitted') AS accepted
FROM run_messages AS m
LEFT JOIN lined AS b ON m.shard = b.shard AND m.id = b.message_id;

-- name: count_lines
-- Counts the statement's lines and what they bill.
SELECT
    count(*) AS lines,
    coalesce(sum(l.billed_segments), 0)::bigint AS segments,
    coalesce(sum(l.amount), 0) AS amount,
    count(*) FILTER (
        WHERE
        l.kind IS NOT NULL
        OR l.billed_segments <> l.owed_segments
        OR l.amount <> l.billed_segments * l.price
    ) AS discrepant
FROM run_lines AS l;

-- name: count_discrepancies
-- Adds up a run's discrepancies by kind.
SELECT
    d.kind,
    count(*) AS count,
    sum(d.segments)::bigint AS segments,
    sum(d.amount) AS amount
FROM discrepancies AS d
WHERE d.run_id = $1
GROUP BY d.kind;

-- name: count_unresolved
-- Counts the account's reports without a message and its callbacks that nobody understood.
SELECT
    (
        SELECT count(*)
        FROM (
            SELECT DISTINCT
                r.shard,
                r.message_id
            FROM reports AS r
            WHERE r.orphan AND NOT r.alternate AND r.account = $1
        ) AS o
    ) AS orphans,
    (SELECT count(*) FROM quarantine AS q WHERE q.account = $1) AS quarantined;

-- name: add_run
-- Keeps a run: its rules, its result.
INSERT INTO runs (id, account, first_day, last_day, statement_id, run_at, rules, result)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: run
-- Reads one run.
SELECT
    id,
    account,
    first_day,
    last_day,
    statement_id,
    run_at,
    rules,
    result
FROM runs
WHERE id = $1;

-- name: list_runs
-- Lists runs, the newest first; after a time and id with a cursor.
SELECT
    id,
    account,
    first_day,
    last_day,
    statement_id,
    run_at,
    rules,
    result
FROM runs
WHERE
    ($1::text IS NULL OR account = $1)
    AND ($2::timestamptz IS NULL OR (run_at, id) < ($2, $3::uuid))
ORDER BY run_at DESC, id DESC
LIMIT $4;

-- name: list_discrepancies
-- Lists a run's discrepancies in their order, after a number, of one kind or all.
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
    amount
FROM discrepancies
WHERE run_id = $1 AND seq > $2 AND ($3::text IS NULL OR kind = $3)
ORDER BY seq
LIMIT $4;
