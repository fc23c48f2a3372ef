-- What the dashboard shows and nobody else asks for. Each is bounded: to a day, some days, or a number of rows.

-- name: day_of_messages
-- Counts the messages of some accounts' days by hour and state, and by whole seconds from sending to the final
-- report; a row has the one or the other. One pass of messages_account_idx over each day.
WITH counted AS MATERIALIZED (
    SELECT
        a.account,
        floor(date_part('epoch', m.sent_at - a.starts) / 3600)::integer AS hour,
        m.status,
        CASE
            WHEN m.status IN ('delivered', 'failed')
                THEN greatest(0, floor(date_part('epoch', m.reported_at - m.sent_at)))::integer
        END AS seconds,
        count(*) AS messages
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS a (account, starts, ends)
    INNER JOIN messages AS m ON a.account = m.account AND m.sent_at >= a.starts AND m.sent_at < a.ends
    GROUP BY 1, 2, 3, 4
)

SELECT
    account,
    hour,
    status,
    NULL::integer AS seconds,
    sum(messages)::bigint AS messages
FROM counted
GROUP BY account, hour, status
UNION ALL
SELECT
    account,
    NULL,
    NULL,
    seconds,
    sum(messages)::bigint
FROM counted
WHERE seconds IS NOT NULL
GROUP BY account, seconds;

-- name: sources_of_day
-- Counts by which way the first final report came, over an account's newest $4 messages of a day that have one.
SELECT
    s.source,
    count(*) AS messages
FROM (
    SELECT
        c.shard,
        c.id
    FROM messages AS c
    WHERE
        c.account = $1
        AND c.sent_at >= $2
        AND c.sent_at < $3
        AND c.status IN ('delivered', 'failed')
    ORDER BY c.sent_at DESC
    LIMIT $4
) AS m
CROSS JOIN LATERAL (
    SELECT r.source
    FROM reports AS r
    WHERE r.shard = m.shard AND r.message_id = m.id AND r.status IN ('delivered', 'failed')
    ORDER BY r.received_at, r.fingerprint
    LIMIT 1
) AS s
GROUP BY s.source;

-- name: burn_of_balances
-- Says what some accounts have left of each kind, and what they spent since $2: falls only, so that a payment in
-- between hides nothing.
SELECT
    b.account,
    b.kind,
    (array_agg(b.currency ORDER BY b.read_at DESC, b.digest DESC))[1] AS currency,
    (array_agg(b.amount ORDER BY b.read_at DESC, b.digest DESC))[1] AS amount,
    max(b.read_at) AS read_at,
    min(b.read_at) AS since,
    coalesce(sum(b.before - b.amount) FILTER (WHERE b.before > b.amount), 0) AS spent
FROM (
    SELECT
        c.account,
        c.kind,
        c.currency,
        c.amount,
        c.read_at,
        c.digest,
        lag(c.amount) OVER (PARTITION BY c.account, c.kind ORDER BY c.read_at, c.digest) AS before
    FROM balances AS c
    WHERE c.account = ANY($1::text[]) AND c.read_at >= $2
) AS b
GROUP BY b.account, b.kind
ORDER BY b.account, b.kind;

-- name: watched_accounts
-- Says of some accounts what to look at is judged by: the last push since $2, what was sent since $3, and since $2
-- reports on unknown messages.
SELECT
    a.account,
    (
        SELECT r.received_at
        FROM records AS r
        WHERE r.account = a.account AND r.source = 'push' AND r.received_at >= $2
        ORDER BY r.received_at DESC
        LIMIT 1
    ) AS last_push_at,
    (
        SELECT count(*)
        FROM messages AS m
        WHERE m.account = a.account AND m.sent_at >= $3 AND m.status <> 'refused'
    ) AS sent,
    (
        SELECT count(*)
        FROM reports AS o
        WHERE o.account = a.account AND o.orphan AND NOT o.alternate AND o.received_at >= $2
    ) AS orphans
FROM unnest($1::text[]) AS a (account)
ORDER BY a.account;

-- name: periods_of_accounts
-- Lists the periods of some accounts that touch the days from $2 to $3 and have a statement or a run, each with
-- its newest statement and newest run.
SELECT
    p.account,
    p.first_day,
    p.last_day,
    s.id AS statement_id,
    s.version AS statement_version,
    s.imported_at,
    r.id AS run_id,
    r.run_at,
    r.result,
    k.closed_run,
    k.closed_at
FROM (
    SELECT
        account,
        first_day,
        last_day
    FROM statements
    WHERE account = ANY($1::text[]) AND last_day >= $2 AND first_day <= $3
    UNION
    SELECT
        account,
        first_day,
        last_day
    FROM periods
    WHERE account = ANY($1::text[]) AND last_day >= $2 AND first_day <= $3
) AS p
LEFT JOIN LATERAL (
    SELECT
        c.id,
        c.version,
        c.imported_at
    FROM statements AS c
    WHERE c.account = p.account AND c.first_day = p.first_day AND c.last_day = p.last_day
    ORDER BY c.version DESC
    LIMIT 1
) AS s ON TRUE
LEFT JOIN LATERAL (
    SELECT
        c.id,
        c.run_at,
        c.result
    FROM runs AS c
    WHERE c.account = p.account AND c.first_day = p.first_day AND c.last_day = p.last_day AND NOT c.assumed
    ORDER BY c.version DESC
    LIMIT 1
) AS r ON TRUE
LEFT JOIN periods AS k ON p.account = k.account AND p.first_day = k.first_day AND p.last_day = k.last_day
ORDER BY p.first_day DESC, p.last_day DESC, p.account;

-- name: months_with_messages
-- Says which of some spans of accounts have a message.
SELECT
    t.account,
    t.first_day
FROM unnest($1::text[], $2::date[], $3::timestamptz[], $4::timestamptz[]) AS t (account, first_day, starts, ends)
WHERE EXISTS (
    SELECT 1
    FROM messages AS m
    WHERE m.account = t.account AND m.sent_at >= t.starts AND m.sent_at < t.ends
);

-- name: statements_of_period
-- Lists the versions of an account's statement of a period, the newest first.
SELECT
    id,
    version,
    file_name,
    format,
    lines,
    segments,
    amount,
    imported_at
FROM statements
WHERE account = $1 AND first_day = $2 AND last_day = $3
ORDER BY version DESC;

-- name: runs_of_period
-- Lists the real runs of an account's period, the newest first.
SELECT
    id,
    version,
    run_at,
    result,
    adjusts
FROM runs
WHERE account = $1 AND first_day = $2 AND last_day = $3 AND NOT assumed
ORDER BY version DESC
LIMIT $4;

-- name: closing_of_period
-- Says by whom and when an account's period was closed, and with which run.
SELECT
    closed_run,
    closed_at,
    closed_by
FROM periods
WHERE account = $1 AND first_day = $2 AND last_day = $3;

-- name: states_of_cases
-- Counts an account's cases of a period by kind and state, with what they come to.
SELECT
    kind,
    state,
    count(*) AS count,
    sum(amount) AS amount,
    sum(amount - credited) AS rest
FROM cases
WHERE account = $1 AND first_day = $2 AND last_day = $3
GROUP BY kind, state;

-- name: record_shown
-- Reads a record whole, with where it stands.
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
    r.purge_id IS NOT NULL AS purged,
    q.reason,
    b.settled_at,
    CASE
        WHEN q.digest IS NOT NULL THEN 'quarantined'
        WHEN b.settled_at IS NOT NULL THEN 'settled'
        ELSE 'recorded'
    END AS state
FROM records AS r
LEFT JOIN batches AS b ON r.batch_id = b.id
LEFT JOIN quarantine AS q ON r.digest = q.digest
WHERE r.digest = $1;
