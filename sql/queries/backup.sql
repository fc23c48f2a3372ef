-- Backup and restore: what a dump does not hold, and what must be so before one is restored.

-- name: nothing_there
-- Says whether the database has no table yet.
SELECT NOT EXISTS (
    SELECT 1
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
);

-- name: roles_there
-- Names which of some roles the server has.
SELECT rolname
FROM pg_roles
WHERE rolname = ANY($1::text[]);

-- name: make_auditor
-- Makes the role that reads the masked views; rights are the dump's.
CREATE ROLE auditor NOLOGIN;

-- name: make_huizhi_receiver
-- Makes the receiver's role, for this log-in to take.
CREATE ROLE huizhi_receiver NOLOGIN;
GRANT huizhi_receiver TO CURRENT_USER;

-- name: make_huizhi_reconciler
-- Makes the reconciler's role, for this log-in to take.
CREATE ROLE huizhi_reconciler NOLOGIN;
GRANT huizhi_reconciler TO CURRENT_USER;
