-- Trust in unsigned pushes: which reports fall short, what became of each, and what people decide on them.

-- name: settle_suspects
-- Says of the given messages, sent at $3, which of their pushed reports cannot be trusted, why, and what became
-- of each by $4; run it after settle_messages, under the same lock. A suspect is confirmed by a report that
-- counts and says the same, contradicted by answers to us that all say otherwise, else it waits. Returns what
-- is new: rows with the state that they had, if any.
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
LEFT JOIN suspects AS b
    ON k.shard = b.shard AND k.message_id = b.message_id AND k.fingerprint = b.fingerprint;

-- name: settle_strangers
-- Finds reports without a message of their own, among those of the given shards, that fall short by themselves
-- or name a number that their vendor id was not sent to, and keeps them as suspects. Returns what is new, and
-- without reasons those that another transaction holds: its view may be older than this one's.
WITH alone AS MATERIALIZED (
    SELECT f.*
    FROM (SELECT DISTINCT u.shard FROM unnest($1::integer[]) AS u (shard)) AS t
    CROSS JOIN LATERAL (
        SELECT
            r.shard,
            r.message_id,
            r.fingerprint,
            r.account,
            r.vendor_message_id,
            r.received_at,
            r.doubts,
            EXISTS (
                SELECT 1
                FROM messages AS m
                WHERE
                    m.shard = t.shard
                    AND m.account = r.account
                    AND m.vendor_message_id = r.vendor_message_id
            ) AS number_differs
        FROM reports AS r
        WHERE
            r.shard = t.shard
            AND r.orphan
            AND r.source = 'push'
            AND NOT r.alternate
            AND r.verdict IS NULL
            AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.shard = t.shard AND m.id = r.message_id)
    ) AS f
    WHERE f.doubts IS NOT NULL OR f.number_differs
),

strange AS MATERIALIZED (
    SELECT
        a.*,
        coalesce(a.doubts, '{}')
        || CASE WHEN a.number_differs THEN ARRAY['number_differs'] ELSE '{}' END AS reasons,
        h.shard IS NOT NULL AS held
    FROM alone AS a
    LEFT JOIN LATERAL (
        SELECT r.shard
        FROM reports AS r
        WHERE
            r.shard = a.shard
            AND r.message_id = a.message_id
            AND r.fingerprint = a.fingerprint
            AND r.orphan
            AND r.verdict IS NULL
        FOR NO KEY UPDATE OF r SKIP LOCKED
    ) AS h ON TRUE
),

marked AS (
    UPDATE reports AS r
    SET left_out = TRUE
    FROM strange AS s
    WHERE
        s.held
        AND r.shard = s.shard
        AND r.message_id = s.message_id
        AND r.fingerprint = s.fingerprint
        AND r.orphan
        AND NOT r.left_out
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
    FROM strange AS s
    WHERE s.held
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
LEFT JOIN suspects AS b
    ON k.shard = b.shard AND k.message_id = b.message_id AND k.fingerprint = b.fingerprint
UNION ALL
SELECT
    s.shard,
    s.message_id,
    s.fingerprint,
    s.account,
    NULL,
    NULL,
    NULL
FROM strange AS s
WHERE NOT s.held;

-- name: await_report
-- Waits until nobody holds a report. Run it in no transaction: whoever holds one may wait for another.
SELECT r.fingerprint
FROM reports AS r
WHERE r.shard = $1 AND r.message_id = $2 AND r.fingerprint = $3
FOR NO KEY UPDATE OF r;

-- name: forget_strangers
-- Forgets of messages that were just folded that a report of theirs was taken for a stranger: whoever did that
-- did not know the message yet. One that falls short has its other reasons since the fold.
DELETE FROM suspects AS s
USING unnest($1::integer[], $2::uuid[]) AS t (shard, id), reports AS r
WHERE
    s.shard = t.shard
    AND s.message_id = t.id
    AND s.state = 'waiting'
    AND s.reasons = ARRAY['number_differs']
    AND r.shard = s.shard
    AND r.message_id = s.message_id
    AND r.fingerprint = s.fingerprint
    AND NOT r.orphan
    AND NOT r.left_out;

-- name: shards_with_unsaid_strangers
-- Finds shards in which a report's vendor id was sent to another number, and nobody has said so yet.
SELECT DISTINCT r.shard
FROM reports AS r
WHERE
    r.orphan
    AND r.source = 'push'
    AND NOT r.alternate
    AND r.verdict IS NULL
    AND NOT EXISTS (
        SELECT 1
        FROM suspects AS s
        WHERE
            s.shard = r.shard
            AND s.message_id = r.message_id
            AND s.fingerprint = r.fingerprint
            AND (s.state <> 'waiting' OR 'number_differs' = ANY(s.reasons))
    )
    AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.shard = r.shard AND m.id = r.message_id)
    AND EXISTS (
        SELECT 1
        FROM messages AS m
        WHERE m.shard = r.shard AND m.account = r.account AND m.vendor_message_id = r.vendor_message_id
    )
ORDER BY r.shard
LIMIT $1;

-- name: settle_strangers_asked
-- Settles what waits at an account for another number than its vendor id was sent to, by answers to us on that
-- id: one for the same number confirms it; where an id is one number's ($2) one for another number
-- contradicts it. Forgets what waits and is no stranger any more.
WITH waiting AS (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint,
        s.vendor_message_id,
        s.account,
        r.status,
        r.left_out
    FROM suspects AS s
    INNER JOIN reports AS r
        ON s.shard = r.shard AND s.message_id = r.message_id AND s.fingerprint = r.fingerprint
    WHERE s.account = $1 AND s.state = 'waiting' AND 'number_differs' = ANY(s.reasons)
    ORDER BY s.shard, s.message_id, s.fingerprint
),

answered AS (
    SELECT
        w.shard,
        w.message_id,
        w.fingerprint,
        bool_or(a.message_id = w.message_id AND a.status = w.status) AS same,
        bool_or(a.message_id <> w.message_id) AND $2::boolean AS other
    FROM waiting AS w
    INNER JOIN reports AS a
        ON
            w.shard = a.shard
            AND w.account = a.account
            AND w.vendor_message_id = a.vendor_message_id
            AND a.source <> 'push'
            AND a.status IN ('delivered', 'failed')
    GROUP BY w.shard, w.message_id, w.fingerprint
),

forgotten AS (
    DELETE FROM suspects AS s
    USING waiting AS w
    WHERE
        NOT w.left_out
        AND s.shard = w.shard
        AND s.message_id = w.message_id
        AND s.fingerprint = w.fingerprint
)

UPDATE suspects AS s
SET
    state = CASE WHEN a.same THEN 'confirmed' ELSE 'contradicted' END,
    reasons = CASE WHEN a.same THEN s.reasons ELSE s.reasons || ARRAY['contradicted_by_query'] END,
    changed_at = $3
FROM answered AS a
WHERE
    (a.same OR a.other)
    AND s.shard = a.shard
    AND s.message_id = a.message_id
    AND s.fingerprint = a.fingerprint
    AND s.state = 'waiting'
RETURNING s.state;

-- name: suspects_to_ask
-- Takes messages that the vendor is to be asked about because of a report that waits, once for each report.
WITH unasked AS (
    SELECT
        s.shard,
        s.message_id,
        s.fingerprint
    FROM suspects AS s
    WHERE s.account = $1 AND s.state = 'waiting' AND s.asked_at IS NULL
    ORDER BY s.found_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
),

asked AS (
    UPDATE suspects AS s
    SET asked_at = $2
    FROM unasked AS u
    WHERE s.shard = u.shard AND s.message_id = u.message_id AND s.fingerprint = u.fingerprint
    RETURNING s.shard, s.account, s.vendor_message_id
)

SELECT DISTINCT
    m.shard,
    m.id
FROM asked AS a
INNER JOIN messages AS m
    ON a.shard = m.shard AND a.account = m.account AND a.vendor_message_id = m.vendor_message_id
WHERE m.status NOT IN ('submitting', 'indeterminate', 'refused');

-- name: ask_soon
-- Has messages be asked about at $3, also those that nobody waits for any more; run it after lock_messages, in
-- one transaction.
INSERT INTO awaiting AS a (shard, message_id, account, sent_at, next_poll_at)
SELECT
    m.shard,
    m.id,
    m.account,
    m.sent_at,
    $3
FROM unnest($1::integer[], $2::uuid[]) AS t (shard, id)
INNER JOIN messages AS m ON t.shard = m.shard AND t.id = m.id
ORDER BY m.shard, m.id
ON CONFLICT (shard, message_id) DO UPDATE
SET next_poll_at = least(a.next_poll_at, excluded.next_poll_at);

-- name: list_suspects
-- Lists pushed reports that could not be trusted as they were, found last first; $2 and $3 narrow it to a
-- state and a reason.
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
    m.status AS message_status,
    d.decided_at,
    d.decided_by,
    d.note,
    c.peer
FROM suspects AS s
INNER JOIN reports AS r
    ON s.shard = r.shard AND s.message_id = r.message_id AND s.fingerprint = r.fingerprint
LEFT JOIN messages AS m ON s.shard = m.shard AND s.message_id = m.id
LEFT JOIN records AS c ON r.digest = c.digest
LEFT JOIN LATERAL (
    SELECT
        e.decided_at,
        e.decided_by,
        e.note
    FROM suspect_decisions AS e
    WHERE e.shard = s.shard AND e.message_id = s.message_id AND e.fingerprint = s.fingerprint
    ORDER BY e.decided_at DESC
    LIMIT 1
) AS d ON TRUE
WHERE
    s.account = ANY($1::text[])
    AND ($2::text IS NULL OR s.state = $2)
    AND ($3::text IS NULL OR $3 = ANY(s.reasons))
    AND ($4::timestamptz IS NULL OR (s.found_at, s.message_id, s.fingerprint) < ($4, $5::uuid, $6::bytea))
ORDER BY s.found_at DESC, s.message_id DESC, s.fingerprint DESC
LIMIT $7;

-- name: strangers_of_message
-- Reads the pushed reports that name a message's vendor id with another number.
SELECT
    s.message_id,
    s.fingerprint,
    s.reasons,
    s.state,
    r.phone,
    r.status,
    r.vendor_code,
    r.reported_at,
    r.received_at,
    r.digest
FROM suspects AS s
INNER JOIN reports AS r
    ON s.shard = r.shard AND s.message_id = r.message_id AND s.fingerprint = r.fingerprint
WHERE s.shard = $1 AND s.account = $2 AND s.vendor_message_id = $3 AND s.message_id <> $4
ORDER BY r.received_at, s.fingerprint
LIMIT 1000;

-- name: count_suspects
-- Counts what waits, by account.
SELECT
    s.account,
    count(*) AS waiting
FROM suspects AS s
WHERE s.account = ANY($1::text[]) AND s.state = 'waiting'
GROUP BY s.account;

-- name: suspects_to_decide
-- Finds reports that a person may decide on as $4 says: those of the given keys, or ($5) all that wait at an
-- account for a reason. What was accepted counts and is never taken back.
SELECT
    s.shard,
    s.message_id,
    s.fingerprint,
    s.state
FROM suspects AS s
WHERE
    (
        ($5::text IS NULL AND (s.shard, s.message_id, s.fingerprint) IN (
            SELECT
                u.shard,
                u.message_id,
                u.fingerprint
            FROM unnest($1::integer[], $2::uuid[], $3::bytea[]) AS u (shard, message_id, fingerprint)
        ))
        OR (s.account = $5 AND s.state = 'waiting' AND ($6::text IS NULL OR $6 = ANY(s.reasons)))
    )
    AND s.state <> 'accepted'
    AND s.state <> $4
ORDER BY s.shard, s.message_id, s.fingerprint
LIMIT $7;

-- name: decide_suspects
-- Keeps a person's word on reports; run it after lock_messages, in one transaction, and fold their messages
-- after it.
WITH decided AS (
    UPDATE reports AS r
    SET
        verdict = $4,
        left_out = $4 <> 'accepted'
    FROM unnest($1::integer[], $2::uuid[], $3::bytea[]) AS u (shard, message_id, fingerprint)
    WHERE
        r.shard = u.shard
        AND r.message_id = u.message_id
        AND r.fingerprint = u.fingerprint
        AND r.verdict IS DISTINCT FROM 'accepted'
    RETURNING r.shard, r.message_id, r.fingerprint
),

noted AS (
    INSERT INTO suspect_decisions (shard, message_id, fingerprint, decided_at, decided_by, verdict, note)
    SELECT
        d.shard,
        d.message_id,
        d.fingerprint,
        $5,
        $6,
        $4,
        $7
    FROM decided AS d
)

UPDATE suspects AS s
SET
    state = $4,
    changed_at = $5
FROM decided AS d
WHERE s.shard = d.shard AND s.message_id = d.message_id AND s.fingerprint = d.fingerprint
RETURNING s.message_id;

-- name: known_suspects
-- Counts which of the given reports are, or were, suspect.
SELECT count(*)
FROM unnest($1::integer[], $2::uuid[], $3::bytea[]) AS u (shard, message_id, fingerprint)
INNER JOIN suspects AS s
    ON u.shard = s.shard AND u.message_id = s.message_id AND u.fingerprint = s.fingerprint;

-- name: weigh_suspects
-- Says how many reports wait at an account, how many answers contradicted within a day, and how many of the
-- newest with impossible times are off by the same whole hours, within $2 seconds.
WITH newest AS (
    SELECT extract(EPOCH FROM r.reported_at - r.received_at)::float8 AS ahead
    FROM (
        SELECT
            s.shard,
            s.message_id,
            s.fingerprint
        FROM suspects AS s
        WHERE
            s.account = $1
            AND s.state = 'waiting'
            AND s.reasons && ARRAY['in_future', 'before_sending']
        ORDER BY s.found_at DESC
        LIMIT 1000
    ) AS w
    INNER JOIN reports AS r
        ON w.shard = r.shard AND w.message_id = r.message_id AND w.fingerprint = r.fingerprint
    WHERE r.reported_at IS NOT NULL
),

shared AS (
    SELECT
        round(n.ahead / 3600)::integer AS hours,
        count(*) AS reports
    FROM newest AS n
    WHERE abs(n.ahead - round(n.ahead / 3600) * 3600) <= $2::float8 AND round(n.ahead / 3600) <> 0
    GROUP BY round(n.ahead / 3600)::integer
    ORDER BY count(*) DESC, abs(round(n.ahead / 3600)::integer)
    LIMIT 1
)

SELECT
    (SELECT count(*) FROM suspects AS s WHERE s.account = $1 AND s.state = 'waiting') AS waiting,
    (
        SELECT count(*)
        FROM suspects AS s
        WHERE s.account = $1 AND s.state = 'contradicted' AND s.changed_at > now() - interval '1 day'
    ) AS contradicted,
    (SELECT count(*) FROM newest) AS timed,
    (SELECT h.hours FROM shared AS h) AS hours,
    (SELECT h.reports FROM shared AS h) AS sharing;
