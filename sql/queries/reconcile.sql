-- Reconciliation of one account's period. All of it runs in one repeatable-read transaction; the temporary
-- tables empty themselves at its end.

-- name: run_settings
-- Gives the run's transaction the memory to sort in, and plans for this run's rows and no other's.
SELECT
    set_config('work_mem', '128MB', TRUE),
    set_config('enable_sort', 'off', TRUE),
    set_config('jit', 'off', TRUE),
    set_config('plan_cache_mode', 'force_custom_plan', TRUE);

-- name: reconcile_tables
-- Makes the working tables of this connection. Of run_weighed a row with a key is a message, or what a line
-- names, that is looked at by itself; one without is a group of messages that come out even, their ids one after
-- the other, "shard" the first of the group's.
CREATE TEMPORARY TABLE IF NOT EXISTS run_weighed (
    shard integer NOT NULL,
    key uuid,
    status text,
    source text,
    segments integer,
    price numeric,
    charged boolean,
    messages bigint NOT NULL,
    ids bytea
) ON COMMIT DELETE ROWS;
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
    line integer,
    shard integer NOT NULL,
    key uuid NOT NULL,
    message_id uuid,
    vendor_message_id text NOT NULL,
    phone text,
    sent_at timestamptz,
    line_sent_at timestamptz,
    status text,
    in_period boolean NOT NULL,
    nth bigint NOT NULL,
    kind text,
    owed_segments integer,
    billed_segments integer NOT NULL,
    price numeric,
    amount numeric,
    contradicted boolean NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS run_texts (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    segments integer,
    cause text
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS run_outcomes (
    shard integer NOT NULL,
    key uuid NOT NULL,
    vendor_message_id text NOT NULL,
    phone text,
    status text,
    sent_segments integer,
    owed_segments integer,
    owed_amount numeric,
    lines bigint NOT NULL,
    billed_segments bigint NOT NULL,
    billed_amount numeric NOT NULL
) ON COMMIT DELETE ROWS;

-- name: analyze_run
-- Tells the planner how much there is in the working tables.
ANALYZE run_messages, run_lines, run_texts;

-- name: lines_without_phone
-- Says whether any line of a statement names its message by the vendor's id alone.
SELECT count(*) > 0
FROM lines
WHERE statement_id = $1 AND message_id IS NULL;

-- name: export_snapshot
-- Gives the statement by which another transaction sees what this one sees; it takes no parameters.
SELECT 'SET TRANSACTION SNAPSHOT ' || quote_literal(pg_export_snapshot()) AS statement;

-- name: weigh
-- Puts messages, lines and final reports side by side, and parts the messages of the period that come out even
-- from all that is to be looked at by itself: with $12, everything. $11 says whether lines without a phone are
-- to be looked for. Of all shards those from $13 to $14, so that two connections can have a half each. Even is a message that is charged for and has one line of its segments at its price, or that
-- is not charged for and has no line; and about which no reports disagree and none is missing.
-- The sides are sorted and grouped, never joined: this many rows come in one order once, each is touched once,
-- and a planner that knows nothing yet of a new statement cannot go wrong.
WITH sides AS (
    SELECT
        m.shard,
        m.id AS key,
        m.status,
        m.segments,
        width_bucket(m.sent_at, $5::timestamptz[]) AS tariff,
        m.contradicted
        OR m.status IN ('submitting', 'indeterminate')
        OR ($9::boolean AND m.status NOT IN ('delivered', 'failed') AND m.sent_at <= $10) AS odd,
        NULL::integer AS billed_segments,
        NULL::numeric AS amount,
        NULL::integer AS source
    FROM messages AS m
    WHERE
        m.account = $1
        AND m.sent_at >= $2
        AND m.sent_at < $3
        AND m.status <> 'refused'
        AND m.shard BETWEEN $13 AND $14
    UNION ALL
    SELECT
        l.shard,
        l.message_id,
        NULL,
        NULL,
        NULL,
        FALSE,
        l.segments,
        l.amount,
        NULL
    FROM lines AS l
    WHERE l.statement_id = $4 AND l.message_id IS NOT NULL AND l.shard BETWEEN $13 AND $14
    UNION ALL
    SELECT
        l.shard,
        coalesce(m.id, md5(l.vendor_message_id)::uuid),
        NULL,
        NULL,
        NULL,
        count(*) OVER (PARTITION BY l.shard, l.line) > 1,
        l.segments,
        l.amount,
        NULL
    FROM lines AS l
    LEFT JOIN messages AS m
        ON
            l.shard = m.shard
            AND m.account = $1
            AND l.vendor_message_id = m.vendor_message_id
            AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
    WHERE
        l.statement_id = ANY(CASE WHEN $11::boolean THEN ARRAY[$4::uuid] ELSE '{}' END)
        AND l.message_id IS NULL
        AND l.shard BETWEEN $13 AND $14
    UNION ALL
    SELECT
        r.shard,
        r.message_id,
        NULL,
        NULL,
        NULL,
        FALSE,
        NULL,
        NULL,
        CASE r.source WHEN 'push' THEN 1 WHEN 'query' THEN 2 ELSE 3 END
    FROM reports AS r
    WHERE
        r.account = $1
        AND r.status IN ('delivered', 'failed')
        AND NOT r.left_out
        AND r.shard BETWEEN $13 AND $14
    ORDER BY 1, 2
),

met AS (
    SELECT
        s.shard,
        s.key,
        min(s.status) AS status,
        min(s.segments) AS segments,
        min(s.tariff) AS tariff,
        ($6::numeric[])[min(s.tariff)] AS price,
        ($7::text[])[min(s.tariff)] = 'submitted'
        OR min(s.status) = 'delivered'
        OR (min(s.status) = 'submitted' AND NOT $9) AS charged,
        bool_or(s.odd) AS odd,
        count(s.billed_segments) AS lines,
        min(s.billed_segments) AS billed_segments,
        min(s.amount) AS amount,
        min(s.source) AS source
    FROM sides AS s
    GROUP BY s.shard, s.key
    HAVING count(s.status) > 0 OR count(s.billed_segments) > 0
),

weighed AS (
    SELECT
        m.*,
        NOT $12::boolean
        AND NOT m.odd
        AND m.status IS NOT NULL
        AND m.price IS NOT NULL
        AND CASE
            WHEN m.charged
                THEN
                    m.lines = 1
                    AND m.billed_segments = m.segments
                    AND (m.amount IS NULL OR m.amount = m.segments * m.price)
            ELSE m.lines = 0
        END AS even
    FROM met AS m
    OFFSET 0 -- or it is worked out again for each column below
)

INSERT INTO run_weighed (shard, key, status, source, segments, price, charged, messages, ids)
SELECT
    g.shard,
    g.key,
    g.status,
    ($8::text[])[g.source],
    g.segments,
    ($6::numeric[])[g.tariff],
    g.charged,
    g.messages,
    g.ids
FROM (
    SELECT
        CASE WHEN w.even THEN w.shard & -4194304 ELSE w.shard END AS shard,
        CASE WHEN NOT w.even THEN w.key END AS key,
        CASE WHEN w.even THEN w.status END AS status,
        CASE WHEN w.even THEN w.source END AS source,
        CASE WHEN w.even THEN w.segments END AS segments,
        CASE WHEN w.even THEN w.tariff END AS tariff,
        CASE WHEN w.even THEN w.charged END AS charged,
        count(*) AS messages,
        string_agg(uuid_send(w.key), '') FILTER (WHERE w.even) AS ids
    FROM weighed AS w
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) AS g;

-- name: analyze_weighed
-- Tells the planner how much there is to be looked at.
ANALYZE run_weighed;

-- name: take_messages
-- Takes the messages sent in the period that are looked at, each with its day's price and whether it is charged
-- for.
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
FROM run_weighed AS w
INNER JOIN messages AS m ON w.shard = m.shard AND w.key = m.id
LEFT JOIN
    unnest($5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::text[]) AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE m.account = $1 AND m.sent_at >= $2 AND m.sent_at < $3 AND m.status <> 'refused';

-- name: take_lines
-- Takes the statement's lines that are looked at with the message that each names, and says which of the first
-- four kinds of discrepancy a line is, if any; in the order of interface section 6 a line is only one of them.
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
        l.message_id AS key,
        m.id AS message_id,
        m.phone AS message_phone,
        m.sent_at,
        m.status,
        m.segments AS owed_segments
    FROM run_weighed AS w
    INNER JOIN lines AS l ON w.shard = l.shard AND w.key = l.message_id
    LEFT JOIN messages AS m
        ON
            l.shard = m.shard
            AND l.message_id = m.id
            AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
    WHERE l.statement_id = $1
    UNION ALL
    SELECT
        l.line,
        l.shard,
        l.vendor_message_id,
        l.phone,
        l.segments,
        l.amount,
        l.sent_at,
        coalesce(m.id, md5(l.vendor_message_id)::uuid),
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
    INNER JOIN run_weighed AS w ON l.shard = w.shard AND coalesce(m.id, md5(l.vendor_message_id)::uuid) = w.key
    WHERE l.statement_id = ANY(CASE WHEN $10::boolean THEN ARRAY[$1::uuid] ELSE '{}' END) AND l.message_id IS NULL
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
    key,
    message_id,
    vendor_message_id,
    phone,
    sent_at,
    line_sent_at,
    status,
    in_period,
    nth,
    kind,
    owed_segments,
    billed_segments,
    price,
    amount,
    contradicted
)
SELECT
    n.line,
    n.shard,
    n.key,
    n.message_id,
    n.vendor_message_id,
    coalesce(n.phone, n.message_phone),
    n.sent_at,
    n.line_sent_at,
    n.status,
    coalesce(n.sent_at >= $3 AND n.sent_at < $4, FALSE),
    n.nth,
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
    coalesce(n.amount, n.segments * t.price),
    FALSE
FROM numbered AS n
LEFT JOIN
    unnest($5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::text[]) AS t (starts, ends, price, basis)
    ON n.priced_at >= t.starts AND n.priced_at < t.ends;

-- name: take_charges
-- Takes, in place of a statement's lines, what reports say that messages cost: those sent from $2 to $3, and
-- those that the ledger does not know and that were reported on then. The same charge said again is one.
-- ASSUMPTION: a charge is the whole of what its message cost. Of several that differ the one of the report that
-- stands by the fold holds, or of the first after it that has any; that there are others is evidence. What one
-- leaves out is no difference.
-- ASSUMPTION: a charge without segments is for ours, and for one of an unknown message. Without an amount it is
-- its segments times its own price, or else times ours. A charge without a currency is in the tariffs'.
WITH charges AS (
    SELECT
        r.shard,
        r.message_id,
        r.status,
        r.reported_at,
        r.fingerprint,
        r.vendor_message_id,
        r.phone,
        r.billed_segments,
        r.billed_price,
        r.billed_amount,
        r.billed_currency,
        m.segments,
        m.sent_at AS priced_at,
        CASE WHEN m.status NOT IN ('submitting', 'indeterminate', 'refused') THEN m.status END AS known_status
    FROM messages AS m
    INNER JOIN reports AS r ON m.shard = r.shard AND m.id = r.message_id
    WHERE
        m.account = $1
        AND m.sent_at >= $2
        AND m.sent_at < $3
        AND NOT r.left_out
        AND num_nonnulls(r.billed_segments, r.billed_price, r.billed_amount) > 0
    UNION ALL
    SELECT
        r.shard,
        r.message_id,
        r.status,
        r.reported_at,
        r.fingerprint,
        r.vendor_message_id,
        r.phone,
        r.billed_segments,
        r.billed_price,
        r.billed_amount,
        r.billed_currency,
        NULL,
        coalesce(r.reported_at, r.received_at),
        NULL
    FROM reports AS r
    WHERE
        r.account = $1
        AND r.orphan
        AND NOT r.alternate
        AND NOT r.left_out
        AND num_nonnulls(r.billed_segments, r.billed_price, r.billed_amount) > 0
),

numbered AS (
    SELECT
        c.*,
        row_number() OVER (
            PARTITION BY c.shard, c.message_id
            ORDER BY
                c.status IN ('delivered', 'failed') DESC,
                c.reported_at ASC NULLS LAST,
                c.status COLLATE "C",
                c.fingerprint
        ) AS nth,
        coalesce(min(c.billed_segments) OVER message <> max(c.billed_segments) OVER message, FALSE)
        OR coalesce(min(c.billed_price) OVER message <> max(c.billed_price) OVER message, FALSE)
        OR coalesce(min(c.billed_amount) OVER message <> max(c.billed_amount) OVER message, FALSE)
        OR coalesce(min(c.billed_currency) OVER message <> max(c.billed_currency) OVER message, FALSE)
            AS contradicted
    FROM charges AS c
    WINDOW message AS (PARTITION BY c.shard, c.message_id)
)

INSERT INTO run_lines (
    shard,
    key,
    message_id,
    vendor_message_id,
    phone,
    sent_at,
    status,
    in_period,
    nth,
    kind,
    owed_segments,
    billed_segments,
    price,
    amount,
    contradicted
)
SELECT
    n.shard,
    n.message_id,
    CASE WHEN n.known_status IS NOT NULL THEN n.message_id END,
    n.vendor_message_id,
    n.phone,
    CASE WHEN n.known_status IS NOT NULL THEN n.priced_at END,
    n.known_status,
    n.known_status IS NOT NULL,
    1,
    CASE
        WHEN n.known_status IS NULL THEN 'billed_not_sent'
        WHEN
            t.basis = 'delivered'
            AND n.known_status <> 'delivered'
            AND ($8::boolean OR n.known_status <> 'submitted')
            THEN 'billed_not_delivered'
    END,
    CASE WHEN n.known_status IS NOT NULL THEN n.segments END,
    coalesce(n.billed_segments, n.segments, 1),
    t.price,
    coalesce(n.billed_amount, coalesce(n.billed_segments, n.segments, 1) * coalesce(n.billed_price, t.price)),
    n.contradicted
FROM numbered AS n
LEFT JOIN
    unnest($4::timestamptz[], $5::timestamptz[], $6::numeric[], $7::text[]) AS t (starts, ends, price, basis)
    ON n.priced_at >= t.starts AND n.priced_at < t.ends
WHERE n.nth = 1 AND n.priced_at >= $2 AND n.priced_at < $3;

-- name: charge_troubles
-- Finds what makes a run without a statement impossible: a charge in another currency than $2, one that no
-- tariff prices; and counts the charges.
SELECT
    (SELECT min(m.sent_at) FROM run_messages AS m WHERE m.price IS NULL) AS untariffed_message,
    (SELECT count(*) FROM run_lines) AS charges,
    (SELECT l.vendor_message_id FROM run_lines AS l WHERE l.amount IS NULL ORDER BY 1 LIMIT 1) AS unpriced,
    (
        SELECT min(r.billed_currency)
        FROM run_lines AS l
        INNER JOIN reports AS r ON l.shard = r.shard AND l.key = r.message_id
        WHERE r.account = $1 AND NOT r.left_out AND r.billed_currency <> $2
    ) AS other_currency;

-- name: texts_to_count
-- Reads the texts of the messages of a run that brought no count of their own.
SELECT
    m.shard,
    m.id,
    m.content,
    m.sign
FROM (
    SELECT
        r.shard,
        r.id
    FROM run_messages AS r
    UNION
    SELECT
        l.shard,
        l.message_id
    FROM run_lines AS l
    WHERE l.message_id IS NOT NULL
) AS n
INNER JOIN messages AS m ON n.shard = m.shard AND n.id = m.id
WHERE m.content IS NOT NULL AND NOT m.segments_given;

-- name: texts_to_explain
-- Reads the texts of the messages that a run found billed with other segments than ours; of a purged text what
-- the last run that could read it told.
SELECT
    m.shard,
    m.id,
    m.content,
    m.sign,
    l.billed_segments,
    (
        SELECT d.cause
        FROM discrepancies AS d
        INNER JOIN runs AS r ON d.run_id = r.id AND NOT r.assumed
        WHERE
            m.purge_id IS NOT NULL
            AND m.content IS NULL
            AND d.shard = m.shard
            AND d.message_id = m.id
            AND d.kind = 'segments_differ'
            AND d.billed_segments = l.billed_segments
        ORDER BY r.run_at DESC, r.id DESC
        LIMIT 1
    ) AS told
FROM run_lines AS l
INNER JOIN messages AS m ON l.shard = m.shard AND l.message_id = m.id
WHERE l.kind IS NULL AND l.billed_segments <> l.owed_segments;

-- name: add_texts
-- Adds what texts of messages were found to be: how many segments, or why others were billed.
INSERT INTO run_texts (shard, message_id, segments, cause)
SELECT
    t.shard,
    t.message_id,
    t.segments,
    t.cause
FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::text[]) AS t (shard, message_id, segments, cause);

-- name: recount
-- Gives a run's messages and lines the counts that an assumption makes of their texts.
WITH counted AS (
    SELECT
        t.shard,
        t.message_id,
        t.segments
    FROM run_texts AS t
    WHERE t.segments IS NOT NULL
),

messages_done AS (
    UPDATE run_messages AS m
    SET segments = c.segments
    FROM counted AS c
    WHERE m.shard = c.shard AND m.id = c.message_id
)

UPDATE run_lines AS l
SET owed_segments = c.segments
FROM counted AS c
WHERE l.shard = c.shard AND l.message_id = c.message_id;

-- name: run_troubles
-- Finds what makes a run of a period from $1 on impossible: a day without a tariff, a line that names several
-- messages.
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
        coalesce(r.sent_at, r.line_sent_at, $1::timestamptz) AS priced_at
    FROM run_lines AS r
    WHERE r.amount IS NULL
    ORDER BY r.line
    LIMIT 1
) AS u ON TRUE;

-- name: add_discrepancies
-- Keeps every discrepancy of the run with its cause, numbered in an order that a rerun repeats. $2 is the
-- account, $3 and $4 the period, $5 the prices of its tariffs. Of several causes the first here is the one.
-- ASSUMPTION: within a day of a period's edge a message may stand on the neighbour's bill; and where line and
-- message are whole half hours apart, by 14 hours at most and a minute more or less, their clocks differ in zone.
WITH lined AS (
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

found AS (
    SELECT
        l.kind,
        CASE l.kind
            WHEN 'billed_not_sent' THEN
                CASE
                    WHEN EXISTS (
                        SELECT 1
                        FROM messages AS m
                        WHERE
                            m.shard = l.shard
                            AND m.account = $2
                            AND m.vendor_message_id = l.vendor_message_id
                            AND (l.phone IS NULL OR m.phone = l.phone)
                            AND m.status = 'refused'
                    ) THEN 'refused_by_us'
                    WHEN EXISTS (
                        SELECT 1
                        FROM messages AS m
                        WHERE
                            m.shard = l.shard
                            AND m.account = $2
                            AND m.vendor_message_id = l.vendor_message_id
                            AND (l.phone IS NULL OR m.phone = l.phone)
                            AND m.status IN ('submitting', 'indeterminate')
                    ) THEN 'in_doubt'
                    WHEN EXISTS (
                        SELECT 1
                        FROM messages AS m
                        WHERE
                            m.shard = l.shard
                            AND m.account = $2
                            AND m.vendor_message_id = l.vendor_message_id
                            AND m.status NOT IN ('submitting', 'indeterminate', 'refused')
                    ) THEN 'id_with_other_phone'
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
),

looked_at AS (
    SELECT
        count(*) AS messages,
        coalesce(sum(m.segments), 0) AS segments,
        count(*) FILTER (WHERE m.charged) AS owed_messages,
        coalesce(sum(m.segments) FILTER (WHERE m.charged), 0) AS owed_segments,
        coalesce(sum(m.segments * m.price) FILTER (WHERE m.charged), 0) AS owed_amount,
        count(*) FILTER (WHERE NOT b.discrepant) AS matched,
        count(*) FILTER (WHERE b.discrepant) AS discrepant,
        count(*) FILTER (WHERE b.message_id IS NULL AND m.charged) AS not_billed,
        count(*) FILTER (WHERE b.message_id IS NULL AND NOT m.charged) AS not_charged,
        count(*) FILTER (WHERE m.missing) AS report_missing,
        count(*) FILTER (WHERE m.status = 'submitted') AS accepted
    FROM run_messages AS m
    LEFT JOIN lined AS b ON m.shard = b.shard AND m.id = b.message_id
),

even AS (
    SELECT
        coalesce(sum(w.messages), 0) AS messages,
        coalesce(sum(w.messages * w.segments), 0) AS segments,
        coalesce(sum(w.messages) FILTER (WHERE w.charged), 0) AS charged,
        coalesce(sum(w.messages * w.segments) FILTER (WHERE w.charged), 0) AS charged_segments,
        coalesce(sum(w.messages * w.segments * w.price) FILTER (WHERE w.charged), 0) AS charged_amount,
        coalesce(sum(w.messages) FILTER (WHERE NOT w.charged), 0) AS not_charged,
        coalesce(sum(w.messages) FILTER (WHERE w.status = 'submitted'), 0) AS accepted
    FROM run_weighed AS w
    WHERE w.key IS NULL
)

SELECT
    (l.messages + e.messages)::bigint AS messages,
    (l.segments + e.segments)::bigint AS segments,
    (l.owed_messages + e.charged)::bigint AS owed_messages,
    (l.owed_segments + e.charged_segments)::bigint AS owed_segments,
    l.owed_amount + e.charged_amount AS owed_amount,
    (l.matched + e.charged)::bigint AS matched,
    l.discrepant,
    l.not_billed,
    (l.not_charged + e.not_charged)::bigint AS not_charged,
    l.report_missing,
    (l.accepted + e.accepted)::bigint AS accepted
FROM looked_at AS l
CROSS JOIN even AS e;

-- name: count_lines
-- Counts the statement's lines and what they bill.
WITH looked_at AS (
    SELECT
        count(*) AS lines,
        coalesce(sum(l.billed_segments), 0) AS segments,
        coalesce(sum(l.amount), 0) AS amount,
        count(*) FILTER (
            WHERE
            l.kind IS NOT NULL
            OR l.billed_segments <> l.owed_segments
            OR l.amount <> l.billed_segments * l.price
        ) AS discrepant
    FROM run_lines AS l
),

even AS (
    SELECT
        coalesce(sum(w.messages), 0) AS lines,
        coalesce(sum(w.messages * w.segments), 0) AS segments,
        coalesce(sum(w.messages * w.segments * w.price), 0) AS amount
    FROM run_weighed AS w
    WHERE w.key IS NULL AND w.charged
)

SELECT
    (l.lines + e.lines)::bigint AS lines,
    (l.segments + e.segments)::bigint AS segments,
    l.amount + e.amount AS amount,
    l.discrepant
FROM looked_at AS l
CROSS JOIN even AS e;

-- name: count_coverage
-- Says by what the fate of the period's segments is known, each of them by one thing: a final report that was
-- pushed, or else one that came by asking, or else a line of the statement, or else the end of the waiting.
WITH reported AS (
    SELECT
        r.shard,
        r.message_id,
        bool_or(r.source = 'push') AS pushed,
        bool_or(r.source = 'query') AS polled
    FROM run_messages AS m
    INNER JOIN reports AS r ON m.shard = r.shard AND m.id = r.message_id
    WHERE r.status IN ('delivered', 'failed') AND NOT r.left_out
    GROUP BY r.shard, r.message_id
),

lined AS (
    SELECT DISTINCT
        l.shard,
        l.message_id
    FROM run_lines AS l
    WHERE l.in_period AND l.line IS NOT NULL
),

found AS (
    SELECT
        m.segments,
        m.status,
        r.message_id IS NOT NULL AS reported,
        r.pushed,
        r.polled,
        b.message_id IS NOT NULL AS lined
    FROM run_messages AS m
    LEFT JOIN reported AS r ON m.shard = r.shard AND m.id = r.message_id
    LEFT JOIN lined AS b ON m.shard = b.shard AND m.id = b.message_id
    UNION ALL
    SELECT
        w.messages * w.segments,
        w.status,
        w.source IS NOT NULL,
        w.source = 'push',
        w.source = 'query',
        w.charged
    FROM run_weighed AS w
    WHERE w.key IS NULL
),

placed AS (
    SELECT
        f.segments,
        CASE
            WHEN f.pushed THEN 'pushed'
            WHEN f.polled THEN 'polled'
            WHEN f.reported THEN 'pulled'
            WHEN f.lined THEN 'statement_only'
            WHEN f.status = 'expired' THEN 'expired'
            WHEN f.status = 'submitted' AND NOT $1::boolean THEN 'accepted_is_last_known'
            ELSE 'unexplained'
        END AS class
    FROM found AS f
)

SELECT
    p.class,
    sum(p.segments)::bigint AS segments
FROM placed AS p
GROUP BY p.class;

-- name: count_causes
-- Adds up a run's discrepancies by cause, the one with most money first. Runs of before causes were told have
-- their kinds.
SELECT
    coalesce(d.cause, d.kind) AS cause,
    d.kind,
    count(*) AS count,
    sum(d.segments)::bigint AS segments,
    sum(d.amount) AS amount
FROM discrepancies AS d
WHERE d.run_id = $1
GROUP BY coalesce(d.cause, d.kind), d.kind
ORDER BY
    abs(sum(d.amount)) DESC,
    abs(sum(d.segments)) DESC,
    count(*) DESC,
    coalesce(d.cause, d.kind) COLLATE "C",
    d.kind COLLATE "C";

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
-- Counts the account's reports without a message, its callbacks that nobody understood, and its reports that
-- wait to be confirmed.
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
    (SELECT count(*) FROM quarantine AS q WHERE q.account = $1) AS quarantined,
    (SELECT count(*) FROM suspects AS s WHERE s.account = $1 AND s.state = 'waiting') AS suspects;

-- name: add_run
-- Keeps a run: its rules, its result.
INSERT INTO runs (
    id,
    account,
    first_day,
    last_day,
    statement_id,
    run_at,
    rules,
    result,
    version,
    assumed,
    adjusts
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: run
-- Reads one run.
SELECT
    r.id,
    r.account,
    r.first_day,
    r.last_day,
    r.statement_id,
    r.run_at,
    r.rules,
    r.result,
    r.version,
    r.assumed,
    r.adjusts,
    r.discrepancies_sha256,
    r.reports_sha256,
    p.closed_at,
    p.closed_by
FROM runs AS r
LEFT JOIN periods AS p
    ON r.account = p.account AND r.first_day = p.first_day AND r.last_day = p.last_day AND r.id = p.closed_run
WHERE r.id = $1;

-- name: list_runs
-- Lists runs, the newest first, the real ones or ($5) those that assume; after a time and id with a cursor.
SELECT
    r.id,
    r.run_at,
    r.rules,
    r.result,
    r.version,
    r.adjusts,
    p.closed_at,
    p.closed_by
FROM runs AS r
LEFT JOIN periods AS p
    ON r.account = p.account AND r.first_day = p.first_day AND r.last_day = p.last_day AND r.id = p.closed_run
WHERE
    ($1::text IS NULL OR r.account = $1)
    AND ($2::timestamptz IS NULL OR (r.run_at, r.id) < ($2, $3::uuid))
    AND r.assumed = $5
ORDER BY r.run_at DESC, r.id DESC
LIMIT $4;

-- name: list_discrepancies
-- Lists a run's discrepancies in their order, after a number, of one kind and cause or all.
SELECT
    seq,
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
FROM discrepancies
WHERE
    run_id = $1
    AND seq > $2
    AND ($3::text IS NULL OR kind = $3)
    AND ($5::text IS NULL OR cause = $5)
ORDER BY seq
LIMIT $4;
