-- API tokens, and the record of what operators did.

-- name: token_of_hash
-- Finds the living token with this hash, and says whether its last use is worth noting again.
SELECT
    id,
    name,
    role,
    last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute' AS unnoted
FROM api_tokens
WHERE sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2);

-- name: note_token_used
-- Notes when a token was last used.
UPDATE api_tokens
SET last_used_at = $2
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2);

-- name: end_expired_tokens
-- Makes room for new tokens of a name: what has expired counts as revoked.
UPDATE api_tokens
SET revoked_at = expires_at
WHERE name = $1 AND revoked_at IS NULL AND expires_at <= $2;

-- name: add_token
-- Adds a token in the first free slot of its name; adds none if both are taken.
INSERT INTO api_tokens (id, name, slot, role, sha256, created_at, created_by, expires_at)
SELECT
    $1,
    $2,
    free.slot,
    $3,
    $4,
    $5,
    $6,
    $7
FROM (VALUES (1), (2)) AS free (slot)
WHERE
    NOT EXISTS (
        SELECT 1
        FROM api_tokens AS t
        WHERE t.name = $2 AND t.slot = free.slot AND t.revoked_at IS NULL
    )
ORDER BY free.slot
LIMIT 1
ON CONFLICT DO NOTHING
RETURNING id;

-- name: revoke_token
-- Revokes a living token by its id.
UPDATE api_tokens
SET revoked_at = $2
WHERE id = $1 AND revoked_at IS NULL
RETURNING name, role;

-- name: tokens
-- Lists tokens, without what they are, those made last first.
SELECT
    id,
    name,
    role,
    created_at,
    created_by,
    expires_at,
    last_used_at,
    coalesce(revoked_at, CASE WHEN expires_at <= $1 THEN expires_at END) AS ended_at
FROM api_tokens
ORDER BY created_at DESC, id;

-- name: add_action
-- Adds a row to what operators did, to be linked.
WITH added AS (
    INSERT INTO operator_actions (id, action_id, at, outcome, actor, role, via, peer, what, subject, status)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    RETURNING id, at
)

INSERT INTO unlinked_actions (id, at)
SELECT
    a.id,
    a.at
FROM added AS a;

-- name: actions
-- Lists what operators did, the newest first; one without an outcome is under way, or was cut off.
SELECT
    b.action_id AS id,
    b.at,
    b.actor,
    b.role,
    b.via,
    b.peer,
    b.what,
    b.subject || coalesce(e.subject, '{}') AS subject,
    e.outcome,
    e.status,
    e.at AS ended_at
FROM operator_actions AS b
LEFT JOIN operator_actions AS e ON b.action_id = e.action_id AND (e.outcome = 'begun') = FALSE
WHERE
    b.outcome = 'begun'
    AND ($1::text IS NULL OR b.actor = $1)
    AND ($2::text IS NULL OR b.what = $2)
    AND ($3::timestamptz IS NULL OR b.at >= $3)
    AND ($4::timestamptz IS NULL OR b.at < $4)
    AND ($5::timestamptz IS NULL OR (b.at, b.action_id) < ($5, $6::uuid))
ORDER BY b.at DESC, b.action_id DESC
LIMIT $7;
