-- Credit notes: what a vendor gives back, set against what is disputed.

-- name: credit_of_file
-- Finds the credit notes that a file was imported as before.
SELECT id
FROM credits
WHERE account = $1 AND file_digest = $2;

-- name: known_credit_numbers
-- Says which of some credit notes were imported before, and from which file.
SELECT DISTINCT
    l.number,
    c.file_name
FROM credit_lines AS l
INNER JOIN credits AS c ON l.credit_id = c.id
WHERE l.account = $1 AND l.number = ANY($2::text[]);

-- name: disputed_of_messages
-- Reads what is disputed of some messages and not credited yet, the oldest first.
SELECT
    c.shard,
    c.id,
    c.vendor_message_id,
    c.phone,
    c.first_day,
    c.last_day,
    c.currency,
    c.version,
    c.owner,
    c.amount - c.credited AS rest
FROM (
    SELECT DISTINCT
        u.shard,
        u.vendor_message_id
    FROM unnest($2::integer[], $3::text[]) AS u (shard, vendor_message_id)
) AS n
INNER JOIN cases AS c ON n.shard = c.shard AND n.vendor_message_id = c.vendor_message_id
WHERE c.account = $1 AND c.state = 'disputed' AND c.amount > c.credited
ORDER BY c.found_at, c.first_day, c.last_day, c.vendor_message_id COLLATE "C", c.phone COLLATE "C", c.kind, c.nth;

-- name: disputed_of_account
-- Reads what is disputed of an account, and of a period if one is given, and not credited yet, the oldest first.
SELECT
    c.shard,
    c.id,
    c.vendor_message_id,
    c.phone,
    c.first_day,
    c.last_day,
    c.currency,
    c.version,
    c.owner,
    c.amount - c.credited AS rest
FROM cases AS c
WHERE
    c.account = $1
    AND c.state = 'disputed'
    AND c.amount > c.credited
    AND c.currency = $2
    AND ($3::date IS NULL OR (c.first_day = $3 AND c.last_day = $4::date))
ORDER BY c.found_at, c.first_day, c.last_day, c.vendor_message_id COLLATE "C", c.phone COLLATE "C", c.kind, c.nth;

-- name: add_credit
-- Keeps a file of credit notes.
INSERT INTO credits (id, account, file_digest, file_name, lines, imported_at)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: add_allocations
-- Keeps how much of which line was set against which case.
INSERT INTO credit_allocations (shard, case_id, credit_id, line, amount)
SELECT
    u.shard,
    u.case_id,
    $1,
    u.line,
    u.amount
FROM unnest($2::integer[], $3::uuid[], $4::integer[], $5::numeric[]) AS u (shard, case_id, line, amount);

-- name: credit_cases
-- Adds to what was credited of cases; one without a rest is credited.
UPDATE cases AS c
SET
    credited = c.credited + u.amount,
    state = CASE WHEN c.credited + u.amount >= c.amount THEN 'credited' ELSE c.state END,
    ended_at = CASE WHEN c.credited + u.amount >= c.amount THEN $5::timestamptz ELSE c.ended_at END,
    version = c.version + u.changes,
    changed_at = $5,
    changed_by = $6
FROM
    unnest($1::integer[], $2::uuid[], $3::numeric[], $4::integer[]) AS u (shard, id, amount, changes)
WHERE c.shard = u.shard AND c.id = u.id;

-- name: add_credit_changes
-- Keeps what credit notes changed in cases.
INSERT INTO case_changes (
    shard,
    case_id,
    version,
    changed_at,
    changed_by,
    from_state,
    to_state,
    owner,
    note,
    credit_id,
    credit_line
)
SELECT
    u.shard,
    u.id,
    u.version,
    $8,
    $9,
    'disputed',
    u.to_state,
    u.owner,
    u.note,
    $1,
    u.line
FROM
    unnest($2::integer[], $3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[], $10::integer[])
        AS u (shard, id, version, to_state, owner, note, line);

-- name: credit
-- Reads a file of credit notes.
SELECT
    id,
    account,
    file_name,
    lines,
    imported_at
FROM credits
WHERE id = $1;

-- name: credit_sums
-- Adds up the lines of a file of credit notes by currency.
SELECT
    currency,
    count(*) AS lines,
    sum(amount) AS amount,
    sum(allocated) AS allocated
FROM credit_lines
WHERE credit_id = $1
GROUP BY currency
ORDER BY currency;

-- name: list_credits
-- Lists lines of credit notes of some accounts, those imported last first; after a line with a cursor. Of one
-- file ($3), one note ($2) or all; with $4 those only of which something is left.
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
    c.imported_at,
    (
        SELECT count(*)
        FROM credit_allocations AS a
        WHERE a.credit_id = l.credit_id AND a.line = l.line
    ) AS discrepancies
FROM credits AS c
INNER JOIN credit_lines AS l ON c.id = l.credit_id
WHERE
    c.account = ANY($1::text[])
    AND ($2::text IS NULL OR l.number = $2)
    AND ($3::uuid IS NULL OR c.id = $3)
    AND (NOT $4::boolean OR l.allocated < l.amount)
    AND ($5::timestamptz IS NULL OR (c.imported_at, c.id, l.line) < ($5, $6::uuid, $7::integer))
ORDER BY c.imported_at DESC, c.id DESC, l.line DESC
LIMIT $8;

-- name: credits_of_case
-- Reads which credit notes were set against a case, in their order.
SELECT
    a.credit_id,
    a.line,
    a.amount,
    l.number,
    c.imported_at
FROM credit_allocations AS a
INNER JOIN credit_lines AS l ON a.credit_id = l.credit_id AND a.line = l.line
INNER JOIN credits AS c ON a.credit_id = c.id
WHERE a.shard = $1 AND a.case_id = $2
ORDER BY c.imported_at, a.credit_id, a.line;
