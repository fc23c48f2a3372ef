-- Leases, by the database's clock alone so that no two machines' clocks need agree; and the record of jobs.

-- name: acquire_lease
-- Takes a lease that nobody holds; the token grows with every taking.
INSERT INTO leases AS l (name, holder, token, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3::float8))
ON CONFLICT (name) DO UPDATE
SET
    holder = excluded.holder,
    token = l.token + 1,
    expires_at = clock_timestamp() + make_interval(secs => $3::float8)
WHERE l.expires_at <= clock_timestamp()
RETURNING token;

-- name: renew_lease
-- Prolongs a lease that is still ours.
UPDATE leases
SET expires_at = clock_timestamp() + make_interval(secs => $3::float8)
WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp()
RETURNING token;

-- name: renew_fenced_lease
-- Prolongs a lease within a transaction that holds it, and so kept all others from prolonging or taking it; not
-- if another transaction holds it too.
WITH held AS (
    SELECT name
    FROM leases
    WHERE name = $1 AND token = $2
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE leases AS l
SET expires_at = clock_timestamp() + make_interval(secs => $3::float8)
FROM held AS h
WHERE l.name = h.name
RETURNING l.token;

-- name: release_lease
-- Gives up a lease, if it is still ours.
UPDATE leases
SET expires_at = clock_timestamp()
WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp();

-- name: fence
-- Locks a lease that is still ours against passing on before this transaction ends; run it first. A pause
-- longer than $3 in this transaction ends it: whoever hangs in it holds up nobody.
SELECT set_config('idle_in_transaction_session_timeout', $3, TRUE)
FROM leases
WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp()
FOR SHARE;

-- name: job_started
-- Notes that a job began; returns how often it failed since it last went well.
INSERT INTO jobs AS j (name, account, started_at, runs)
VALUES ($1, $2, $3, 1)
ON CONFLICT (name, account) DO UPDATE
SET
    started_at = excluded.started_at,
    finished_at = NULL,
    runs = j.runs + 1
RETURNING failures_in_row;

-- name: job_due_in
-- Says in how many seconds after $4 a job is due that runs every $3, whoever ran it last; null for one that
-- never ran, or that nobody finished, or that began by a clock that was set back since.
SELECT
    extract(
        EPOCH FROM greatest(j.started_at + make_interval(secs => $3::float8), j.again_at) - $4::timestamptz
    )::float8
FROM jobs AS j
WHERE
    j.name = $1
    AND j.account = $2
    AND j.finished_at IS NOT NULL
    AND j.started_at <= $4::timestamptz + make_interval(secs => $3::float8);

-- name: job_finished
-- Notes how a job ended: $4 is null for success, else what went wrong, and $6 when it is tried again.
UPDATE jobs
SET
    finished_at = $3,
    failures = failures + CASE WHEN $4::text IS NULL THEN 0 ELSE 1 END,
    failures_in_row = CASE WHEN $4::text IS NULL THEN 0 ELSE failures_in_row + 1 END,
    error = $4,
    detail = $5::jsonb,
    again_at = $6
WHERE name = $1 AND account = $2;
