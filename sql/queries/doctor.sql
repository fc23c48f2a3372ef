-- What an examination of the database looks at.

-- name: database_traits
-- Says what the server is, what it promises of a commit, how many connections it gives, and its time.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_encoding') AS encoding,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer AS connections,
    clock_timestamp() AS now;

-- name: acting_user
-- Says as whom this connection acts.
SELECT current_user::text;

-- name: lacking_rights
-- Names those of some tables that whoever acts may not read and add to.
SELECT t.name
FROM unnest($1::text[]) AS t (name)
WHERE NOT (has_table_privilege(t.name, 'SELECT') AND has_table_privilege(t.name, 'INSERT'))
ORDER BY t.name;

-- name: known_to_vendor
-- Names something that an account's vendor knows by an id: the sign or template that was last decided or changed,
-- else the message that was sent last (kind null).
WITH reviewed AS MATERIALIZED (
    SELECT
        r.kind,
        r.vendor_id
    FROM reviews AS r
    WHERE r.account = $1 AND r.status <> 'deleted'
    ORDER BY r.updated_at DESC NULLS LAST, r.kind, r.vendor_id
    LIMIT 1
),

sent AS MATERIALIZED (
    SELECT m.vendor_message_id AS vendor_id
    FROM messages AS m
    WHERE m.account = $1 AND m.status IN ('submitted', 'delivered', 'failed', 'expired')
    ORDER BY m.sent_at DESC, m.id DESC
    LIMIT 1
)

SELECT
    r.kind,
    r.vendor_id
FROM reviewed AS r
UNION ALL
SELECT
    NULL::text,
    s.vendor_id
FROM sent AS s
WHERE NOT EXISTS (SELECT 1 FROM reviewed);
