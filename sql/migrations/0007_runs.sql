-- Runs that close a period, adjust a closed one, or only assume; the cause of each discrepancy.

-- How often an account's period was reconciled, and which run closed it. Reconciling and closing lock its row.
CREATE TABLE periods (
    account text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    versions integer NOT NULL,
    newest_run uuid,
    closed_run uuid,
    closed_at timestamptz,
    closed_by text,
    CONSTRAINT periods_pkey PRIMARY KEY (account, first_day, last_day),
    CONSTRAINT periods_closed_check CHECK (
        (closed_run IS NULL) = (closed_at IS NULL) AND (closed_run IS NULL) = (closed_by IS NULL)
    )
);

-- An assumed run has no version. A run without a statement was held against what reports said.
ALTER TABLE runs ADD COLUMN version integer;
ALTER TABLE runs ADD COLUMN assumed boolean NOT NULL DEFAULT FALSE;
ALTER TABLE runs ADD COLUMN adjusts uuid;
-- squawk-ignore ban-drop-not-null
ALTER TABLE runs ALTER COLUMN statement_id DROP NOT NULL;

UPDATE runs AS r
SET version = n.version
FROM (
    SELECT
        id,
        row_number() OVER (PARTITION BY account, first_day, last_day ORDER BY run_at, id) AS version
    FROM runs
) AS n
WHERE r.id = n.id;

-- Runs from before have no outcomes, so that none of them is the newest that can be closed.
INSERT INTO periods (account, first_day, last_day, versions)
SELECT
    account,
    first_day,
    last_day,
    count(*)
FROM runs
GROUP BY account, first_day, last_day;

-- squawk-ignore constraint-missing-not-valid
ALTER TABLE runs ADD CONSTRAINT runs_assumed_check CHECK (
    (version IS NULL) = assumed AND (adjusts IS NULL OR NOT assumed)
);
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX runs_version_idx ON runs (account, first_day, last_day, version) WHERE NOT assumed;

ALTER TABLE discrepancies ADD COLUMN cause text;

-- What a run came to for each message and each line without one; of the newest run of an open period and of
-- the run that closed one. "key" is the message's id, or the one that it would have.
CREATE TABLE outcomes (
    run_id uuid NOT NULL,
    shard integer NOT NULL,
    key uuid NOT NULL,
    vendor_message_id text NOT NULL,
    phone text,
    status text,
    sent_segments integer,
    owed_segments integer,
    owed_amount numeric,
    lines bigint NOT NULL,
    billed_segments bigint NOT NULL,
    billed_amount numeric NOT NULL,
    CONSTRAINT outcomes_pkey PRIMARY KEY (run_id, shard, key),
    CONSTRAINT outcomes_owed_check CHECK ((owed_segments IS NULL) = (owed_amount IS NULL))
);

-- What an adjustment changes, message by message; null where there was, or is, nothing.
CREATE TABLE adjustments (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    shard integer NOT NULL,
    key uuid NOT NULL,
    vendor_message_id text NOT NULL,
    phone text,
    status_before text,
    status_after text,
    sent_segments_before integer,
    sent_segments_after integer,
    owed_segments_before integer,
    owed_segments_after integer,
    owed_amount_before numeric,
    owed_amount_after numeric,
    lines_before bigint NOT NULL,
    lines_after bigint NOT NULL,
    billed_segments_before bigint NOT NULL,
    billed_segments_after bigint NOT NULL,
    billed_amount_before numeric NOT NULL,
    billed_amount_after numeric NOT NULL,
    CONSTRAINT adjustments_pkey PRIMARY KEY (run_id, seq, shard)
);

-- As it was, without those that assume: "newest" is the last real run of its account and period.
CREATE OR REPLACE VIEW audit.runs AS
SELECT
    r.id,
    r.account,
    r.first_day,
    r.last_day,
    r.statement_id,
    (r.rules ->> 'statement_version')::integer AS statement_version,
    r.run_at,
    NOT EXISTS (
        SELECT 1
        FROM runs AS later
        WHERE
            later.account = r.account
            AND NOT later.assumed
            AND later.first_day = r.first_day
            AND later.last_day = r.last_day
            AND (later.run_at, later.id) > (r.run_at, r.id)
    ) AS newest,
    r.result ->> 'status' AS status,
    r.result ->> 'currency' AS currency,
    (r.result -> 'sent' ->> 'messages')::bigint AS sent_messages,
    (r.result -> 'owed' ->> 'segments')::bigint AS owed_segments,
    (r.result -> 'owed' ->> 'amount')::numeric AS owed_amount,
    (r.result -> 'billed' ->> 'segments')::bigint AS billed_segments,
    (r.result -> 'billed' ->> 'amount')::numeric AS billed_amount,
    (r.result -> 'difference' ->> 'amount')::numeric AS difference_amount
FROM runs AS r
WHERE NOT r.assumed;
