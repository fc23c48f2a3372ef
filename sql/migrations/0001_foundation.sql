-- Huizhi's tables. Past one database server the same schema is distributed by "shard" (records: by
-- "digest"), which is why it stands in every key of every large table and in the joins between them.
-- shard = the first 4 bytes of sha256(account, vendor_message_id); message_id begins with the same bytes.

-- Raw bytes from vendors: pushed callbacks and replies to our queries. Never rewritten.
CREATE TABLE records (
    digest bytea NOT NULL,
    account text NOT NULL,
    source text NOT NULL,
    call text,
    subject text,
    batch_id bigint NOT NULL,
    received_at timestamptz NOT NULL,
    last_received_at timestamptz NOT NULL,
    deliveries bigint NOT NULL,
    method text NOT NULL,
    query bytea NOT NULL,
    headers text NOT NULL,
    body bytea NOT NULL,
    peer text,
    CONSTRAINT records_pkey PRIMARY KEY (digest),
    CONSTRAINT records_digest_check CHECK (length(digest) = 32),
    CONSTRAINT records_source_check CHECK (source IN ('push', 'query', 'pull')),
    CONSTRAINT records_call_check CHECK ((source = 'push') = (call IS NULL)),
    CONSTRAINT records_deliveries_check CHECK (deliveries >= 1)
);
CREATE INDEX records_batch_idx ON records (batch_id);
CREATE INDEX records_account_idx ON records (account, received_at, digest);

-- One row a commit of records: its settled_at says of all of them that they were parsed and folded, so
-- that settling rewrites one narrow row a commit and not one wide row a callback.
CREATE TABLE batches (
    id bigint GENERATED ALWAYS AS IDENTITY,
    recorder text NOT NULL,
    recorded_at timestamptz NOT NULL,
    taken_up_at timestamptz,
    settled_at timestamptz,
    CONSTRAINT batches_pkey PRIMARY KEY (id)
);
CREATE INDEX batches_unsettled_idx ON batches (recorded_at) WHERE settled_at IS NULL;

-- Records (whole, or some rows of them) that could not be understood.
CREATE TABLE quarantine (
    digest bytea NOT NULL,
    account text NOT NULL,
    received_at timestamptz NOT NULL,
    quarantined_at timestamptz NOT NULL,
    reason text NOT NULL,
    CONSTRAINT quarantine_pkey PRIMARY KEY (digest)
);
CREATE INDEX quarantine_account_idx ON quarantine (account, received_at);

-- The ledger: one text to one number. Its state is the fold of its reports, or the clock's word 'expired'.
CREATE TABLE messages (
    shard integer NOT NULL,
    id uuid NOT NULL,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    phone text NOT NULL,
    sent_at timestamptz NOT NULL,
    registered_at timestamptz NOT NULL,
    segments integer NOT NULL,
    segments_given boolean NOT NULL,
    status text NOT NULL,
    reported_at timestamptz,
    vendor_code text,
    reason text,
    contradicted boolean NOT NULL DEFAULT FALSE,
    content text,
    sign text,
    reference text,
    template_id text,
    CONSTRAINT messages_pkey PRIMARY KEY (shard, id),
    CONSTRAINT messages_segments_check CHECK (segments >= 0),
    CONSTRAINT messages_status_check CHECK (
        status IN ('submitting', 'submitted', 'delivered', 'failed', 'expired', 'indeterminate', 'refused')
    ),
    CONSTRAINT messages_final_check CHECK (status NOT IN ('delivered', 'failed') OR vendor_code IS NOT NULL),
    CONSTRAINT messages_contradicted_check CHECK (NOT contradicted OR status IN ('delivered', 'failed'))
) WITH (fillfactor = 50); -- room for each row's one update in its page, which then touches no index
CREATE INDEX messages_account_idx ON messages (account, sent_at, id);
CREATE INDEX messages_phone_idx ON messages (phone, sent_at);
CREATE INDEX messages_reference_idx ON messages (account, reference) WHERE reference IS NOT NULL;

-- Messages without a final report, and when to ask next. A narrow table of its own, so that a final
-- report deletes a row here instead of moving a wide row in an index of messages.
CREATE TABLE awaiting (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    account text NOT NULL,
    sent_at timestamptz NOT NULL,
    next_poll_at timestamptz NOT NULL,
    polls integer NOT NULL DEFAULT 0,
    CONSTRAINT awaiting_pkey PRIMARY KEY (shard, message_id)
);
CREATE INDEX awaiting_due_idx ON awaiting (account, next_poll_at);

-- The set of reports that states are folded from. The same words from the same source are one row.
CREATE TABLE reports (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    phone text NOT NULL,
    status text NOT NULL,
    vendor_code text NOT NULL,
    reason text,
    reported_at timestamptz,
    received_at timestamptz NOT NULL,
    source text NOT NULL,
    digest bytea NOT NULL,
    orphan boolean NOT NULL,
    CONSTRAINT reports_pkey PRIMARY KEY (shard, message_id, fingerprint),
    CONSTRAINT reports_status_check CHECK (status IN ('delivered', 'failed', 'pending', 'unknown')),
    CONSTRAINT reports_source_check CHECK (source IN ('push', 'query', 'pull'))
);
CREATE INDEX reports_orphan_idx ON reports (shard, message_id) WHERE orphan;

-- Messages from handsets (MO).
CREATE TABLE inbound (
    shard integer NOT NULL,
    fingerprint bytea NOT NULL,
    account text NOT NULL,
    phone text NOT NULL,
    content text NOT NULL,
    sent_at timestamptz,
    received_at timestamptz NOT NULL,
    extension text,
    vendor_message_id text,
    source text NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT inbound_pkey PRIMARY KEY (shard, fingerprint)
);
CREATE INDEX inbound_account_idx ON inbound (account, received_at, fingerprint);
CREATE INDEX inbound_phone_idx ON inbound (phone, received_at);

-- Every word of a vendor on a sign or template, and below the state folded from it.
CREATE TABLE review_results (
    account text NOT NULL,
    kind text NOT NULL,
    vendor_id text NOT NULL,
    fingerprint bytea NOT NULL,
    status text NOT NULL,
    vendor_code text NOT NULL,
    name text,
    content text,
    remark text,
    reason text,
    created_at timestamptz,
    updated_at timestamptz,
    received_at timestamptz NOT NULL,
    source text NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT review_results_pkey PRIMARY KEY (account, kind, vendor_id, fingerprint),
    CONSTRAINT review_results_kind_check CHECK (kind IN ('sign', 'template')),
    CONSTRAINT review_results_status_check CHECK (status IN ('pending', 'approved', 'rejected', 'unknown'))
);

CREATE TABLE reviews (
    account text NOT NULL,
    kind text NOT NULL,
    vendor_id text NOT NULL,
    status text NOT NULL,
    vendor_code text,
    name text,
    content text,
    remark text,
    reason text,
    created_at timestamptz,
    updated_at timestamptz,
    next_poll_at timestamptz,
    polls integer NOT NULL DEFAULT 0,
    CONSTRAINT reviews_pkey PRIMARY KEY (account, kind, vendor_id),
    CONSTRAINT reviews_kind_check CHECK (kind IN ('sign', 'template')),
    CONSTRAINT reviews_status_check CHECK (status IN ('pending', 'approved', 'rejected', 'unknown')),
    CONSTRAINT reviews_poll_check CHECK ((status IN ('approved', 'rejected')) = (next_poll_at IS NULL))
);
CREATE INDEX reviews_due_idx ON reviews (account, next_poll_at) WHERE next_poll_at IS NOT NULL;

-- Who may run a job: one holder at a time, its token only ever grows, and every write of the job names it.
CREATE TABLE leases (
    name text NOT NULL,
    holder text NOT NULL,
    token bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT leases_pkey PRIMARY KEY (name)
);

-- Reads that the vendor hands out once: the intent is stored before the call, the page with its record.
CREATE TABLE pulls (
    id uuid NOT NULL,
    account text NOT NULL,
    call text NOT NULL,
    token bigint NOT NULL,
    asked_rows integer NOT NULL,
    state text NOT NULL,
    intended_at timestamptz NOT NULL,
    finished_at timestamptz,
    rows integer,
    digest bytea,
    error text,
    CONSTRAINT pulls_pkey PRIMARY KEY (id),
    CONSTRAINT pulls_state_check CHECK (state IN ('intended', 'recorded', 'nothing', 'lost')),
    CONSTRAINT pulls_finished_check CHECK ((state = 'intended') = (finished_at IS NULL)),
    CONSTRAINT pulls_digest_check CHECK ((state <> 'recorded') OR (digest IS NOT NULL))
);
CREATE INDEX pulls_account_idx ON pulls (account, intended_at);
CREATE INDEX pulls_open_idx ON pulls (account, call) WHERE state = 'intended';
CREATE INDEX pulls_lost_idx ON pulls (account, intended_at) WHERE state = 'lost';

-- What each job did last, and how often it failed.
CREATE TABLE jobs (
    name text NOT NULL,
    account text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    failures_in_row integer NOT NULL DEFAULT 0,
    error text,
    detail jsonb,
    CONSTRAINT jobs_pkey PRIMARY KEY (name, account)
);

-- Vendors' bills. A corrected file for the same account and period is a new version.
CREATE TABLE statements (
    id uuid NOT NULL,
    account text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    version integer NOT NULL,
    file_digest bytea NOT NULL,
    file_name text NOT NULL,
    format text NOT NULL,
    lines bigint NOT NULL,
    segments bigint NOT NULL,
    amount numeric,
    imported_at timestamptz NOT NULL,
    CONSTRAINT statements_pkey PRIMARY KEY (id),
    CONSTRAINT statements_version_key UNIQUE (account, first_day, last_day, version),
    CONSTRAINT statements_file_key UNIQUE (account, first_day, last_day, file_digest),
    CONSTRAINT statements_period_check CHECK (first_day <= last_day)
);

CREATE TABLE lines (
    shard integer NOT NULL,
    statement_id uuid NOT NULL,
    line integer NOT NULL,
    message_id uuid,
    vendor_message_id text NOT NULL,
    phone text,
    segments integer NOT NULL,
    amount numeric,
    sent_at timestamptz,
    status text,
    CONSTRAINT lines_pkey PRIMARY KEY (statement_id, line, shard),
    CONSTRAINT lines_phone_check CHECK ((phone IS NULL) = (message_id IS NULL)),
    CONSTRAINT lines_segments_check CHECK (segments >= 0)
);
CREATE INDEX lines_message_idx ON lines (shard, message_id);

-- Runs of reconciliation and what each found.
CREATE TABLE runs (
    id uuid NOT NULL,
    account text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    statement_id uuid NOT NULL,
    run_at timestamptz NOT NULL,
    rules jsonb NOT NULL,
    result json NOT NULL, -- and not jsonb, which would put its keys in another order
    CONSTRAINT runs_pkey PRIMARY KEY (id)
);
CREATE INDEX runs_account_idx ON runs (account, run_at, id);

CREATE TABLE discrepancies (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    shard integer NOT NULL,
    kind text NOT NULL,
    message_id uuid,
    vendor_message_id text NOT NULL,
    phone text,
    line integer,
    sent_at timestamptz,
    status text,
    owed_segments integer,
    billed_segments integer,
    price numeric,
    billed_amount numeric,
    segments bigint NOT NULL,
    amount numeric NOT NULL,
    CONSTRAINT discrepancies_pkey PRIMARY KEY (run_id, seq, shard),
    CONSTRAINT discrepancies_kind_check CHECK (
        kind IN (
            'billed_not_sent', 'billed_not_delivered', 'billed_twice', 'billed_out_of_period',
            'segments_differ', 'price_differs', 'not_billed', 'reports_contradict', 'report_missing'
        )
    )
);
CREATE INDEX discrepancies_message_idx ON discrepancies (shard, message_id);
