-- What vendors are asked besides messages: balances, lists by time, the deletion of signs and templates.

-- What an account had left, each time that its vendor said so.
CREATE TABLE balances (
    account text NOT NULL,
    kind text NOT NULL,
    digest bytea NOT NULL,
    read_at timestamptz NOT NULL,
    amount numeric NOT NULL,
    currency text,
    call text,
    CONSTRAINT balances_pkey PRIMARY KEY (account, kind, digest)
);
CREATE INDEX balances_read_idx ON balances (account, read_at, kind, digest);
CREATE INDEX balances_newest_idx ON balances (account, kind, read_at, digest);

-- Until when an account's list of what was sent, or of what came from handsets, has been read whole.
CREATE TABLE sweeps (
    account text NOT NULL,
    call text NOT NULL,
    swept_until timestamptz NOT NULL,
    token bigint NOT NULL,
    CONSTRAINT sweeps_pkey PRIMARY KEY (account, call)
);

-- Reports whose message is not known, the newest first. Writes wait while the table is read for it once.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX reports_orphan_account_idx ON reports (account, received_at, message_id, fingerprint) WHERE orphan;

-- When a job that failed is tried again.
ALTER TABLE jobs ADD COLUMN again_at timestamptz;

-- A sign or template can be deleted, which is as decided as it gets. Few rows, and all of them hold still.
-- squawk-ignore ban-drop-constraint
ALTER TABLE review_results DROP CONSTRAINT review_results_status_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE review_results ADD CONSTRAINT review_results_status_check CHECK (
    status IN ('pending', 'approved', 'rejected', 'deleted', 'unknown')
);
-- squawk-ignore ban-drop-constraint
ALTER TABLE reviews DROP CONSTRAINT reviews_status_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE reviews ADD CONSTRAINT reviews_status_check CHECK (
    status IN ('pending', 'approved', 'rejected', 'deleted', 'unknown')
);
-- squawk-ignore ban-drop-constraint
ALTER TABLE reviews DROP CONSTRAINT reviews_poll_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE reviews ADD CONSTRAINT reviews_poll_check CHECK (
    (status IN ('approved', 'rejected', 'deleted')) = (next_poll_at IS NULL)
);
