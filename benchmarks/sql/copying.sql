-- Rows that a work of ours made, written out and read in again by COPY.

-- name: forget_statements
-- Empties the tables of statements.
TRUNCATE statements, lines;

-- name: forget_messages
-- Empties the ledger and what hangs on it.
TRUNCATE messages, awaiting, reports;

-- name: statement_lines
-- Reads the imported lines in the file's order.
SELECT
    shard,
    statement_id,
    line,
    message_id,
    vendor_message_id,
    phone,
    segments,
    amount,
    sent_at,
    status
FROM lines
ORDER BY line;

-- name: ledger_messages
-- Reads the registered messages in the order in which they lie there.
SELECT
    shard,
    id,
    account,
    vendor_message_id,
    phone,
    sent_at,
    registered_at,
    segments,
    segments_given,
    status,
    reported_at,
    vendor_code,
    reason,
    contradicted,
    content,
    sign,
    reference,
    template_id
FROM messages
ORDER BY ctid;
