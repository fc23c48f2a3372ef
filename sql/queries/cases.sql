-- Cases: discrepancies as they are followed over reruns, and what people decide on them. Whoever writes a case
-- holds its account's lock first, so that each decides on what is there, and nobody waits for half of another.

-- name: lock_cases
-- Lets one at a time write cases of some accounts, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('cases ' || a.account, 0))
FROM (
    SELECT DISTINCT u.account
    FROM unnest($1::text[]) AS u (account)
    ORDER BY u.account
) AS a;

-- name: claim_period
-- Brings a period's cases up to a run, unless those of a newer one are there.
INSERT INTO case_periods AS p (account, first_day, last_day, run_id, run_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account, first_day, last_day) DO UPDATE
SET
    run_id = excluded.run_id,
    run_at = excluded.run_at
WHERE p.run_at <= excluded.run_at
RETURNING p.run_id;

-- name: case_tables
-- Makes the working tables of this connection: what the run found, and a row for each of these and for each case
-- that it no longer finds; from_state is null where it is new, seq where it is not found.
CREATE TEMPORARY TABLE IF NOT EXISTS run_found (
    seq bigint NOT NULL,
    shard integer NOT NULL,
    kind text NOT NULL,
    message_id uuid,
    vendor_message_id text NOT NULL,
    phone text,
    line integer,
    sent_at timestamptz,
    status text,
    segments bigint NOT NULL,
    amount numeric NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS run_cases (
    seq bigint,
    shard integer NOT NULL,
    id uuid NOT NULL,
    nth integer NOT NULL,
    version integer NOT NULL,
    from_state text,
    to_state text NOT NULL,
    owner text,
    note text
) ON COMMIT DELETE ROWS;

-- name: take_found
-- Takes what a run found.
INSERT INTO run_found (
    seq, shard, kind, message_id, vendor_message_id, phone, line, sent_at, status, segments, amount
)
SELECT
    d.seq,
    d.shard,
    d.kind,
    d.message_id,
    d.vendor_message_id,
    d.phone,
    d.line,
    d.sent_at,
    d.status,
    d.segments,
    d.amount
FROM discrepancies AS d
WHERE d.run_id = $1;

-- name: pair_cases
-- Pairs what a run found with the cases of its account and period. Of several alike (same kind, id and phone)
-- those of the same segments and amount belong together, and what is left in its order: so that a corrected
-- statement without one of two lines leaves the case of the other with the other.
-- Both sides are numbered and grouped, never joined: a planner that knows nothing yet of this many rows cannot
-- go wrong.
WITH sides AS (
    SELECT
        f.shard,
        f.kind,
        f.vendor_message_id,
        coalesce(f.phone, '') AS phone,
        f.segments,
        f.amount,
        f.seq,
        NULL::uuid AS id,
        NULL::integer AS place,
        NULL::integer AS version,
        NULL::text AS state,
        NULL::text AS owner,
        NULL::integer AS turn
    FROM run_found AS f
    UNION ALL
    SELECT
        c.shard,
        c.kind,
        c.vendor_message_id,
        coalesce(c.phone, ''),
        c.segments,
        c.amount,
        NULL,
        c.id,
        c.nth,
        c.version,
        c.state,
        c.owner,
        CASE
            WHEN c.state IN ('open', 'acknowledged', 'disputed') THEN 1
            WHEN c.state IN ('credited', 'written_off') THEN 2
            ELSE 3
        END
    FROM cases AS c
    WHERE c.account = $1 AND c.first_day = $2 AND c.last_day = $3
),

numbered AS (
    SELECT
        s.*,
        max(s.place) OVER (PARTITION BY s.shard, s.kind, s.vendor_message_id, s.phone) AS last_place,
        row_number() OVER (
            PARTITION BY
                s.shard, s.kind, s.vendor_message_id, s.phone, s.segments, s.amount, s.seq IS NULL
            ORDER BY s.seq, s.turn, s.place
        ) AS nth
    FROM sides AS s
),

same AS (
    SELECT
        n.*,
        count(*) OVER (
            PARTITION BY n.shard, n.kind, n.vendor_message_id, n.phone, n.segments, n.amount, n.nth
        ) = 2 AS equal
    FROM numbered AS n
),

-- Those that are equal meet by amount and number, those that are left by their number among these.
keyed AS (
    SELECT
        e.shard,
        e.kind,
        e.vendor_message_id,
        e.phone,
        e.seq,
        e.id,
        e.place,
        e.version,
        e.state,
        e.owner,
        e.turn,
        e.last_place,
        e.amount,
        e.equal,
        CASE WHEN e.equal THEN e.segments END AS segments_key,
        CASE WHEN e.equal THEN e.amount END AS amount_key,
        CASE
            WHEN e.equal THEN e.nth
            ELSE row_number() OVER (
                PARTITION BY e.shard, e.kind, e.vendor_message_id, e.phone, e.equal, e.seq IS NULL
                ORDER BY e.seq, e.turn, e.place
            )
        END AS nth
    FROM same AS e
),

paired AS (
    SELECT
        k.shard,
        k.kind,
        k.vendor_message_id,
        k.phone,
        k.nth,
        max(k.last_place) AS last_place,
        max(k.seq) AS seq,
        (array_agg(k.id) FILTER (WHERE k.id IS NOT NULL))[1] AS id,
        max(k.place) AS place,
        max(k.version) AS version,
        max(k.state) AS state,
        max(k.owner) AS owner,
        max(k.turn) AS turn,
        max(k.amount) FILTER (WHERE k.seq IS NULL) AS was,
        max(k.amount) FILTER (WHERE k.seq IS NOT NULL) AS amount
    FROM keyed AS k
    GROUP BY
        k.shard, k.kind, k.vendor_message_id, k.phone, k.equal, k.segments_key, k.amount_key, k.nth
),

placed AS (
    SELECT
        p.*,
        coalesce(p.last_place, 0) + row_number() OVER (
            PARTITION BY p.shard, p.kind, p.vendor_message_id, p.phone, p.id IS NULL
            ORDER BY p.nth
        ) AS new_place
    FROM paired AS p
)

INSERT INTO run_cases (seq, shard, id, nth, version, from_state, to_state, owner, note)
SELECT
    p.seq,
    p.shard,
    coalesce(
        p.id,
        encode(
            int4send(p.shard)
            || substring(
                sha256(
                    convert_to(
                        jsonb_build_array(
                            $1::text, $2::date, $3::date, p.kind, p.vendor_message_id, p.phone, p.new_place
                        )::text,
                        'UTF8'
                    )
                )
                FROM 1 FOR 12
            ),
            'hex'
        )::uuid
    ),
    coalesce(p.place, p.new_place),
    coalesce(p.version, 0),
    p.state,
    CASE
        WHEN p.seq IS NULL THEN 'resolved'
        WHEN p.id IS NULL OR p.turn = 3 OR (p.turn = 2 AND p.was <> p.amount) THEN 'open'
        ELSE p.state
    END,
    p.owner,
    CASE
        WHEN p.id IS NULL THEN NULL
        WHEN p.seq IS NULL THEN 'not found any more'
        WHEN p.turn = 3 THEN 'found again'
        WHEN p.was <> p.amount THEN 'the amount was ' || trim_scale(p.was) || ' and is ' || trim_scale(p.amount)
    END
FROM placed AS p
WHERE p.seq IS NOT NULL OR p.turn = 1;

-- name: analyze_cases
-- Tells the planner how much there is in the working tables.
ANALYZE run_found, run_cases;

-- name: add_cases
-- Opens a case for each discrepancy that is new.
INSERT INTO cases (
    shard,
    id,
    account,
    first_day,
    last_day,
    kind,
    vendor_message_id,
    phone,
    nth,
    found_at,
    state,
    version,
    changed_at,
    changed_by,
    run_id,
    message_id,
    line,
    sent_at,
    status,
    segments,
    amount,
    currency
)
SELECT
    n.shard,
    n.id,
    $2,
    $3,
    $4,
    f.kind,
    f.vendor_message_id,
    f.phone,
    n.nth,
    $5,
    n.to_state,
    1,
    $5,
    'reconciliation',
    $1,
    f.message_id,
    f.line,
    f.sent_at,
    f.status,
    f.segments,
    f.amount,
    $6
FROM run_cases AS n
INNER JOIN run_found AS f ON n.seq = f.seq
WHERE n.from_state IS NULL;

-- name: renew_cases
-- Gives the cases that a run found again what it found.
UPDATE cases AS c
SET
    run_id = $1,
    message_id = f.message_id,
    line = f.line,
    sent_at = f.sent_at,
    status = f.status,
    segments = f.segments,
    amount = f.amount,
    currency = $2,
    state = n.to_state,
    ended_at = CASE WHEN n.to_state = n.from_state THEN c.ended_at END,
    version = c.version + (n.note IS NOT NULL)::integer,
    changed_at = CASE WHEN n.note IS NULL THEN c.changed_at ELSE $3 END,
    changed_by = CASE WHEN n.note IS NULL THEN c.changed_by ELSE 'reconciliation' END
FROM run_cases AS n
INNER JOIN run_found AS f ON n.seq = f.seq
WHERE c.shard = n.shard AND c.id = n.id AND n.from_state IS NOT NULL;

-- name: resolve_cases
-- Ends the cases that a run no longer finds.
UPDATE cases AS c
SET
    state = n.to_state,
    ended_at = $1,
    version = c.version + 1,
    changed_at = $1,
    changed_by = 'reconciliation'
FROM run_cases AS n
WHERE c.shard = n.shard AND c.id = n.id AND n.seq IS NULL;

-- name: add_run_changes
-- Keeps what a run changed in cases: their state, or their amount.
INSERT INTO case_changes (
    shard, case_id, version, changed_at, changed_by, from_state, to_state, owner, note, run_id
)
SELECT
    n.shard,
    n.id,
    n.version + 1,
    $2,
    'reconciliation',
    n.from_state,
    n.to_state,
    n.owner,
    n.note,
    $1
FROM run_cases AS n
WHERE n.from_state IS NULL OR n.note IS NOT NULL;

-- name: accounts_of_cases
-- Says whose cases some are.
SELECT DISTINCT c.account
FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)
INNER JOIN cases AS c ON u.shard = c.shard AND u.id = c.id;

-- name: cases_by_id
-- Reads how some cases stand, to decide on them.
SELECT
    c.shard,
    c.id,
    c.state,
    c.owner,
    c.note,
    c.version,
    c.changed_by,
    c.ended_at
FROM unnest($1::integer[], $2::uuid[]) AS u (shard, id)
INNER JOIN cases AS c ON u.shard = c.shard AND u.id = c.id
ORDER BY c.shard, c.id;

-- name: cases_by_filter
-- Reads how the cases stand that a filter meets, to decide on them; at most $9.
SELECT
    c.shard,
    c.id,
    c.state,
    c.owner,
    c.note,
    c.version,
    c.changed_by,
    c.ended_at
FROM cases AS c
WHERE
    c.account = ANY($1::text[])
    AND ($2::date IS NULL OR (c.first_day = $2 AND c.last_day = $3::date))
    AND ($4::text IS NULL OR c.kind = $4)
    AND ($5::text IS NULL OR c.state = $5)
    AND ($6::text IS NULL OR coalesce(c.owner, '') = $6)
    AND (
        $7::integer IS NULL
        OR coalesce(c.ended_at, $8::timestamptz) - c.found_at >= make_interval(hours => 24 * $7)
    )
ORDER BY c.shard, c.id
LIMIT $9;

-- name: decide_cases
-- Sets the state, owner and note of cases, each a version further.
UPDATE cases AS c
SET
    state = u.state,
    owner = u.owner,
    note = u.note,
    ended_at = u.ended_at,
    version = c.version + 1,
    changed_at = $7,
    changed_by = $8
FROM
    unnest($1::integer[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
        AS u (shard, id, state, owner, note, ended_at)
WHERE c.shard = u.shard AND c.id = u.id;

-- name: add_changes
-- Keeps what people changed in cases.
INSERT INTO case_changes (
    shard, case_id, version, changed_at, changed_by, from_state, to_state, owner, note
)
SELECT
    u.shard,
    u.id,
    u.version,
    $7,
    $8,
    u.from_state,
    u.to_state,
    u.owner,
    $9
FROM
    unnest($1::integer[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::text[])
        AS u (shard, id, version, from_state, to_state, owner);

-- name: list_cases
-- Lists cases of some accounts, those found last first; after a time and id with a cursor.
SELECT
    c.id,
    c.account,
    c.first_day,
    c.last_day,
    c.kind,
    c.state,
    c.owner,
    c.note,
    c.vendor_message_id,
    c.phone,
    c.nth,
    c.message_id,
    c.line,
    c.sent_at,
    c.status,
    c.segments,
    c.amount,
    c.credited,
    c.currency,
    c.found_at,
    c.ended_at,
    c.changed_at,
    c.changed_by,
    c.version,
    c.run_id
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    SELECT k.*
    FROM cases AS k
    WHERE
        k.account = a.account
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
    LIMIT $11
) AS c
ORDER BY c.found_at DESC, c.id DESC
LIMIT $11;

-- name: case
-- Reads one case.
SELECT
    id,
    account,
    first_day,
    last_day,
    kind,
    state,
    owner,
    note,
    vendor_message_id,
    phone,
    nth,
    message_id,
    line,
    sent_at,
    status,
    segments,
    amount,
    credited,
    currency,
    found_at,
    ended_at,
    changed_at,
    changed_by,
    version,
    run_id
FROM cases
WHERE shard = $1 AND id = $2;

-- name: changes_of_case
-- Reads what became of a case, in order.
SELECT
    version,
    changed_at,
    changed_by,
    from_state,
    to_state,
    owner,
    note,
    run_id,
    credit_id,
    credit_line
FROM case_changes
WHERE shard = $1 AND case_id = $2
ORDER BY version;

-- name: cases_of_message
-- Reads how the cases stand that are about a message.
SELECT
    id,
    first_day,
    last_day,
    kind,
    state,
    owner,
    amount,
    credited
FROM cases
WHERE shard = $1 AND vendor_message_id = $2 AND message_id = $3
ORDER BY first_day, last_day, kind, nth;

-- name: age_cases
-- Counts cases of some accounts, and adds them up, by state and by how old they are at $2, or were at their end.
SELECT
    c.account,
    c.currency,
    c.state,
    width_bucket(
        extract(EPOCH FROM coalesce(c.ended_at, $2::timestamptz) - c.found_at),
        ARRAY[8 * 86400, 31 * 86400, 61 * 86400, 91 * 86400]::numeric[]
    ) AS bucket,
    count(*) AS count,
    sum(c.amount) AS amount,
    sum(c.credited) AS credited
FROM cases AS c
WHERE c.account = ANY($1::text[])
GROUP BY c.account, c.currency, c.state, bucket
ORDER BY c.account, c.currency;
