-- What every connection is told when it is opened.

-- name: lose_patience
-- Has the server end a transaction that says nothing for half a minute, and a connection whose other end has
-- been silent for a minute: locks must not outlive a client that hangs, or that a broken network took away.
-- Returns whether this is a Citus cluster.
SELECT
    EXISTS (SELECT 1 FROM pg_extension AS e WHERE e.extname = 'citus') AS citus,
    set_config('idle_in_transaction_session_timeout', '30s', false),
    set_config('tcp_keepalives_idle', '30', false),
    set_config('tcp_keepalives_interval', '10', false),
    set_config('tcp_keepalives_count', '3', false);

-- name: see_alike
-- Has Citus keep to one connection to each server, so that all statements of a transaction see that server at one
-- time, and lock its rows one shard after the other; and has it show its catalogue as it is. Else it asks of each
-- table in pg_class whether that is a shard, and what the driver asks of types takes half a second each time.
SELECT
    set_config('citus.max_adaptive_executor_pool_size', '1', false),
    set_config('citus.override_table_visibility', 'off', false);

-- name: think_long
-- Lets this transaction pause for as long as packing evidence, or a reader of a large export, takes. Only for
-- one that locks nothing that others wait for.
SET LOCAL idle_in_transaction_session_timeout = '15min';

-- name: become
-- Takes a role until the connection ends, if there is one of that name and this log-in may take it; else returns
-- nothing. From PostgreSQL 16 on one may be a member without being let.
SELECT set_config('role', r.rolname, false)
FROM pg_roles AS r
WHERE
    r.rolname = $1
    AND pg_has_role(
        r.oid,
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END
    );
