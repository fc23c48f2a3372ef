-- Work on discrepancies: a case is a discrepancy as it is followed over reruns, with who decided what; credit
-- notes are what the vendor gives back for disputed ones.

-- id = shard, and the hash of what identifies the discrepancy: account, period, kind, vendor_message_id, phone
-- and "nth", its place among several alike. What stands behind state is of the newest run that found it.
CREATE TABLE cases (
    shard integer NOT NULL,
    id uuid NOT NULL,
    account text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    kind text NOT NULL,
    vendor_message_id text NOT NULL,
    phone text,
    nth integer NOT NULL,
    found_at timestamptz NOT NULL,
    state text NOT NULL,
    owner text,
    note text,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    ended_at timestamptz,
    run_id uuid NOT NULL,
    message_id uuid,
    line integer,
    sent_at timestamptz,
    status text,
    segments bigint NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    credited numeric NOT NULL DEFAULT 0,
    CONSTRAINT cases_pkey PRIMARY KEY (shard, id),
    CONSTRAINT cases_state_check CHECK (
        state IN ('open', 'acknowledged', 'disputed', 'credited', 'written_off', 'resolved')
    ),
    CONSTRAINT cases_ended_check CHECK (
        (state IN ('credited', 'written_off', 'resolved')) = (ended_at IS NOT NULL)
    ),
    CONSTRAINT cases_credited_check CHECK (credited >= 0)
);
CREATE INDEX cases_account_idx ON cases (account, found_at, id);
CREATE INDEX cases_period_idx ON cases (account, first_day, last_day);
CREATE INDEX cases_vendor_id_idx ON cases (shard, vendor_message_id);
CREATE INDEX cases_disputed_idx ON cases (account, found_at, id) WHERE state = 'disputed';

-- What became of each case, in order: rows are only ever added. from_state is null where it was found first;
-- run_id is the run, credit_id and credit_line the credit note, where one of these decided.
CREATE TABLE case_changes (
    shard integer NOT NULL,
    case_id uuid NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    from_state text,
    to_state text NOT NULL,
    owner text,
    note text,
    run_id uuid,
    credit_id uuid,
    credit_line integer,
    CONSTRAINT case_changes_pkey PRIMARY KEY (shard, case_id, version)
);

-- Up to which run the cases of a period are brought: an older run changes nothing any more.
CREATE TABLE case_periods (
    account text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    run_id uuid NOT NULL,
    run_at timestamptz NOT NULL,
    CONSTRAINT case_periods_pkey PRIMARY KEY (account, first_day, last_day)
);

-- Files of credit notes, their lines, and which disputed amount each was set against.
CREATE TABLE credits (
    id uuid NOT NULL,
    account text NOT NULL,
    file_digest bytea NOT NULL,
    file_name text NOT NULL,
    lines integer NOT NULL,
    imported_at timestamptz NOT NULL,
    CONSTRAINT credits_pkey PRIMARY KEY (id),
    CONSTRAINT credits_file_key UNIQUE (account, file_digest)
);
CREATE INDEX credits_account_idx ON credits (imported_at, id);

CREATE TABLE credit_lines (
    credit_id uuid NOT NULL,
    line integer NOT NULL,
    account text NOT NULL,
    number text NOT NULL,
    vendor_message_id text,
    phone text,
    first_day date,
    last_day date,
    amount numeric NOT NULL,
    allocated numeric NOT NULL,
    currency text NOT NULL,
    reason text,
    outcome text NOT NULL,
    CONSTRAINT credit_lines_pkey PRIMARY KEY (credit_id, line),
    CONSTRAINT credit_lines_amount_check CHECK (amount > 0 AND allocated BETWEEN 0 AND amount),
    CONSTRAINT credit_lines_outcome_check CHECK (outcome IN ('settled', 'partly', 'over', 'nothing_disputed'))
);
CREATE INDEX credit_lines_number_idx ON credit_lines (account, number);

CREATE TABLE credit_allocations (
    shard integer NOT NULL,
    case_id uuid NOT NULL,
    credit_id uuid NOT NULL,
    line integer NOT NULL,
    amount numeric NOT NULL,
    CONSTRAINT credit_allocations_pkey PRIMARY KEY (shard, case_id, credit_id, line),
    CONSTRAINT credit_allocations_amount_check CHECK (amount > 0)
);
CREATE INDEX credit_allocations_line_idx ON credit_allocations (credit_id, line);
