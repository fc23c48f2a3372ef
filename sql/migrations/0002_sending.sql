-- Sending: what was asked for, each call to a vendor, and messages that have no vendor id yet.
-- Such a message stands under a provisional vendor id, '~' and its submission's id in hex; as soon as its
-- real id is known it moves to the key that its reports will name.

-- What somebody asked us to send; alive_until is pushed on by whoever is sending it, null when that is over.
CREATE TABLE sends (
    id uuid NOT NULL,
    account text NOT NULL,
    idempotency_key text,
    request_digest bytea NOT NULL,
    requested_at timestamptz NOT NULL,
    duplicates integer [] NOT NULL,
    alive_until timestamptz,
    CONSTRAINT sends_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX sends_idempotency_idx ON sends (account, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX sends_alive_idx ON sends (alive_until) WHERE alive_until IS NOT NULL;

-- One call to a vendor each: queued until it is claimed, calling until its outcome is known.
CREATE TABLE submissions (
    id uuid NOT NULL,
    send_id uuid NOT NULL,
    account text NOT NULL,
    seq integer NOT NULL,
    numbers integer NOT NULL,
    state text NOT NULL,
    called_at timestamptz,
    finished_at timestamptz,
    vendor_code text,
    reason text,
    digest bytea,
    CONSTRAINT submissions_pkey PRIMARY KEY (id),
    CONSTRAINT submissions_state_check CHECK (
        state IN ('queued', 'calling', 'accepted', 'refused', 'nothing', 'indeterminate')
    )
);
CREATE INDEX submissions_send_idx ON submissions (send_id, seq);

ALTER TABLE messages ADD COLUMN submission_id uuid;
ALTER TABLE messages ADD COLUMN outcome_by text;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX messages_submission_idx ON messages (submission_id) WHERE submission_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX messages_unidentified_idx ON messages (account, phone)
WHERE submission_id IS NOT NULL AND outcome_by IS NULL; -- and not by status, whose every update it would see

-- Where a message that was indeterminate for a while stands now.
CREATE TABLE moved_messages (
    id uuid NOT NULL,
    moved_to uuid NOT NULL,
    CONSTRAINT moved_messages_pkey PRIMARY KEY (id)
);

-- A report may name its message by several ids: it stands under each, and "also" holds the other keys. Only
-- the first is counted as an orphan. What the vendor says that the message cost is billed evidence.
ALTER TABLE reports ADD COLUMN alternate boolean NOT NULL DEFAULT FALSE;
ALTER TABLE reports ADD COLUMN also uuid [];
ALTER TABLE reports ADD COLUMN billed_segments integer;
ALTER TABLE reports ADD COLUMN billed_price numeric;
ALTER TABLE reports ADD COLUMN billed_amount numeric;
ALTER TABLE reports ADD COLUMN billed_currency text;
