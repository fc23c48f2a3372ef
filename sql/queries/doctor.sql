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

-- name: known_to_vendors
-- Names for each of some accounts something that its vendor knows by an id: the sign or template that was last
-- decided or changed, else the message that was sent last (kind null).
SELECT
    a.account,
    k.kind,
    k.vendor_id
FROM unnest($1::text[]) AS a (account)
CROSS JOIN LATERAL (
    (
        SELECT
            r.kind,
            r.vendor_id,
            1 AS place
        FROM reviews AS r
        WHERE r.account = a.account AND r.status <> 'deleted'
        ORDER BY r.updated_at DESC NULLS LAST, r.kind, r.vendor_id
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
            NULL::text AS kind,
            m.vendor_message_id AS vendor_id,
            2 AS place
        FROM messages AS m
        WHERE m.account = a.account AND m.status IN ('submitted', 'delivered', 'failed', 'expired')
        ORDER BY m.sent_at DESC, m.id DESC
        LIMIT 1
    )
    ORDER BY place
    LIMIT 1
) AS k
ORDER BY a.account;
