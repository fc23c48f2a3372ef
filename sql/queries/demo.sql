-- What the demo holds against the sandbox's truth: the evidence as it lies in the tables.

-- name: demo_messages
-- Says of every message what it is taken for and by which ways its reports came.
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
    coalesce(bool_or(r.source = 'push' AND c.deliveries > 1), FALSE) AS doubled,
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
LEFT JOIN records AS c ON r.digest = c.digest
GROUP BY m.shard, m.id;

-- name: demo_quarantined
-- Lists the pushes that nobody understood, by account and the digest of their body alone.
SELECT
    c.account,
    encode(sha256(c.body), 'hex') AS body_sha256
FROM quarantine AS q
INNER JOIN records AS c ON q.digest = c.digest
WHERE c.source = 'push';

-- name: demo_counts
-- Counts what is left to do, and what the rest of the demo's table needs. For what was sent since $1 nobody
-- has waited long enough to give up.
SELECT
    (SELECT count(*) FROM messages) AS messages,
    (SELECT count(*) FROM awaiting WHERE sent_at < $1) AS awaiting,
    (SELECT count(*) FROM batches WHERE settled_at IS NULL) AS unsettled,
    (SELECT count(*) FROM pulls WHERE state = 'lost') AS lost_pages,
    (SELECT count(*) FROM pulls WHERE state = 'intended') AS open_pages,
    (SELECT count(*) FROM pulls WHERE state = 'recorded') AS pages,
    (SELECT count(*) FROM inbound) AS inbound,
    (SELECT count(*) FROM reviews WHERE next_poll_at IS NOT NULL) AS in_review,
    (SELECT count(*) FROM records WHERE source = 'push') AS callbacks,
    (SELECT count(*) FROM records WHERE source <> 'push') AS replies;

-- name: demo_reviews
-- Says of every sign and template what it is taken for, and whether a push told us.
SELECT
    v.kind,
    v.vendor_id,
    v.status,
    coalesce(
        bool_or(r.source = 'push' AND r.status IN ('approved', 'rejected')), FALSE
    ) AS pushed
FROM reviews AS v
LEFT JOIN review_results AS r
    ON v.account = r.account AND v.kind = r.kind AND v.vendor_id = r.vendor_id
GROUP BY v.account, v.kind, v.vendor_id;

-- name: demo_own
-- Says of each account what was sent through us, what became of it, and what told us so.
SELECT
    s.account,
    count(DISTINCT s.send_id) AS requests,
    count(*) AS numbers,
    count(*) FILTER (WHERE m.status = 'refused') AS refused,
    count(*) FILTER (WHERE m.status = 'delivered') AS delivered,
    count(*) FILTER (WHERE m.status = 'failed') AS failed,
    count(*) FILTER (WHERE m.status = 'submitted') AS submitted,
    count(*) FILTER (WHERE m.status IN ('submitting', 'indeterminate')) AS in_doubt,
    coalesce(
        string_agg(DISTINCT m.outcome_by, ', ' ORDER BY m.outcome_by)
        FILTER (WHERE m.outcome_by <> 'reply'),
        ''
    ) AS told_by
FROM submissions AS s
INNER JOIN messages AS m ON s.id = m.submission_id
GROUP BY s.account;
