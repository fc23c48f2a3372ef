-- Reading vendors' lists by time.

-- name: swept_until
-- Says until when an account's list has been read whole.
SELECT swept_until
FROM sweeps
WHERE account = $1 AND call = $2;

-- name: advance_sweep
-- Notes until when an account's list has been read whole.
INSERT INTO sweeps AS s (account, call, swept_until, token)
VALUES ($1, $2, $3, $4)
ON CONFLICT (account, call) DO UPDATE
SET
    swept_until = greatest(s.swept_until, excluded.swept_until),
    token = excluded.token;
