-- Vendors' bills: stored as imported, versions kept.

-- name: lock_statements
-- Lets one import at a time decide on the version of an account's period.
SELECT pg_advisory_xact_lock(hashtextextended($1::text || $2::date || $3::date, 0));

-- name: statement_of_file
-- Finds the statement that a file was imported as before.
SELECT
    id,
    version,
    lines,
    segments,
    amount
FROM statements
WHERE account = $1 AND first_day = $2 AND last_day = $3 AND file_digest = $4;

-- name: next_version
-- Says which version the next file for an account's period is.
SELECT coalesce(max(version), 0) + 1 AS version
FROM statements
WHERE account = $1 AND first_day = $2 AND last_day = $3;

-- name: ambiguous_lines
-- Finds the first lines without a phone whose id names several messages of the account.
SELECT l.line
FROM lines AS l
WHERE
    l.statement_id = $1
    AND l.message_id IS NULL
    AND (
        SELECT count(*)
        FROM messages AS m
        WHERE
            m.shard = l.shard
            AND m.account = $2
            AND m.vendor_message_id = l.vendor_message_id
    ) > 1
ORDER BY l.line
LIMIT $3;

-- name: add_statement
-- Keeps an imported statement, with the totals of its lines.
INSERT INTO statements (
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
    imported_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: newest_statement
-- Finds the statement that holds for an account's period: its newest version.
SELECT
    id,
    version,
    lines
FROM statements
WHERE account = $1 AND first_day = $2 AND last_day = $3
ORDER BY version DESC
LIMIT 1;

-- name: list_statements
-- Lists imported statements, the newest first; after a time and id with a cursor.
SELECT
    id,
    account,
    first_day,
    last_day,
    version,
    file_name,
    format,
    lines,
    segments,
    amount,
    imported_at
FROM statements
WHERE
    ($1::text IS NULL OR account = $1)
    AND ($2::timestamptz IS NULL OR (imported_at, id) < ($2, $3::uuid))
ORDER BY imported_at DESC, id DESC
LIMIT $4;
