-- Trust in unsigned pushes; alarms; how soon receipts come; what vendors' documents look like.

-- What a pushed report falls short of by itself ("doubts": where it came from, a time to come), and the last
-- moment at which its message can have been sent. "verdict" is a person's word on it, "left_out" whether the
-- fold left it out.
ALTER TABLE reports ADD COLUMN doubts text [];
ALTER TABLE reports ADD COLUMN sent_by timestamptz;
ALTER TABLE reports ADD COLUMN verdict text;
ALTER TABLE reports ADD COLUMN left_out boolean NOT NULL DEFAULT FALSE;

-- Pushed reports that cannot be trusted as they are, and what became of each. "asked_at" is when the vendor was
-- to be asked because of it. "message_id" is the message's that it names, or the one that it would have.
CREATE TABLE suspects (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    reasons text [] NOT NULL,
    state text NOT NULL,
    received_at timestamptz NOT NULL,
    found_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    asked_at timestamptz,
    CONSTRAINT suspects_pkey PRIMARY KEY (shard, message_id, fingerprint),
    CONSTRAINT suspects_state_check CHECK (
        state IN ('waiting', 'confirmed', 'contradicted', 'accepted', 'rejected')
    )
);
CREATE INDEX suspects_account_idx ON suspects (account, found_at, message_id, fingerprint);
CREATE INDEX suspects_waiting_idx ON suspects (account, found_at) WHERE state = 'waiting';

-- Who accepted or rejected a suspect report, and why: rows are only ever added.
CREATE TABLE suspect_decisions (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    decided_at timestamptz NOT NULL,
    decided_by text NOT NULL,
    verdict text NOT NULL,
    note text,
    CONSTRAINT suspect_decisions_pkey PRIMARY KEY (shard, message_id, fingerprint, decided_at),
    CONSTRAINT suspect_decisions_verdict_check CHECK (verdict IN ('accepted', 'rejected'))
);

-- What was held against a report when its run was linked.
ALTER TABLE run_reports ADD COLUMN reasons text [];
ALTER TABLE run_reports ADD COLUMN state text;

-- Something that a person should know of, from when it was noticed until it was over.
CREATE TABLE alarms (
    id uuid NOT NULL,
    account text NOT NULL,
    kind text NOT NULL,
    since timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    ended_at timestamptz,
    words text NOT NULL,
    figures jsonb NOT NULL,
    CONSTRAINT alarms_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX alarms_open_idx ON alarms (account, kind) WHERE ended_at IS NULL;
CREATE INDEX alarms_since_idx ON alarms (since, id);

-- How soon the receipts of an account come, learned of its past.
CREATE TABLE arrival_curves (
    account text NOT NULL,
    learned_at timestamptz NOT NULL,
    source text NOT NULL,
    model jsonb NOT NULL,
    CONSTRAINT arrival_curves_pkey PRIMARY KEY (account)
);

-- A day (UTC) of an account, of all its messages or of a sample: how many were sent in each minute, how many
-- first receipts came in each (also in the hours after), and how many so many minutes after sending. "source"
-- is the way by which most of these receipts came.
CREATE TABLE arrival_days (
    account text NOT NULL,
    day date NOT NULL,
    source text NOT NULL,
    messages bigint NOT NULL,
    sent integer [] NOT NULL,
    came integer [] NOT NULL,
    arrived integer [] NOT NULL,
    CONSTRAINT arrival_days_pkey PRIMARY KEY (account, day),
    CONSTRAINT arrival_days_source_check CHECK (source IN ('push', 'pull', 'query'))
);

-- Fields with their types, and codes, that a vendor's documents were seen with. "known": its gateway speaks of
-- it; "drift": what was new about it when it came, if anything; "example" is a record's digest.
CREATE TABLE document_features (
    account text NOT NULL,
    document text NOT NULL,
    feature text NOT NULL,
    kind text NOT NULL,
    known boolean NOT NULL,
    drift text,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    seen bigint NOT NULL,
    example bytea NOT NULL,
    CONSTRAINT document_features_pkey PRIMARY KEY (account, document, feature, kind),
    CONSTRAINT document_features_drift_check CHECK (drift IN ('field', 'type', 'code'))
);

-- Up to which record a reading job has read the records of an account.
CREATE TABLE positions (
    reader text NOT NULL,
    account text NOT NULL,
    received_at timestamptz NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT positions_pkey PRIMARY KEY (reader, account)
);
