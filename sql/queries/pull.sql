-- Reading what a vendor hands out once.

-- name: intend_pull
-- Stores the intent to read a page.
INSERT INTO pulls (id, account, call, token, asked_rows, state, intended_at)
VALUES ($1, $2, $3, $4, $5, 'intended', $6);

-- name: finish_pull
-- Says what became of a page; one given up for lost can still turn up.
UPDATE pulls
SET
    state = $2,
    finished_at = $3,
    digest = $4,
    error = $5
WHERE id = $1 AND state IN ('intended', 'lost');

-- name: pull_understood
-- Says how many rows a recorded page held, or why it was not understood.
UPDATE pulls
SET
    rows = $2,
    error = $3
WHERE id = $1;

-- name: lose_pulls
-- Gives up pages that a reader before us meant to read and of which nothing is there.
UPDATE pulls
SET
    state = 'lost',
    finished_at = $4,
    error = 'the reader stopped before the page was recorded'
WHERE account = $1 AND call = $2 AND state = 'intended' AND token < $3
RETURNING id, intended_at;
