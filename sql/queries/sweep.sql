-- Reading vendors' lists by time.

-- name: swept_until
-- Says until when an account's list has been read whole.
SELECT swept_until
FROM sweeps
WHERE account = $1 AND call = $2;

-- name: advance_sweep
-- Notes until when an account's list has been read whole, if the lease is still ours by the database's clock.
INSERT INTO sweeps AS s (account, call, swept_until, token)
SELECT
    $1,
    $2,
    $3,
    l.token
FROM leases AS l
WHERE l.name = $4 AND l.token = $5 AND l.expires_at > clock_timestamp()
FOR SHARE
ON CONFLICT (account, call) DO UPDATE
SET
    swept_until = greatest(s.swept_until, excluded.swept_until),
    token = excluded.token
RETURNING swept_until;
