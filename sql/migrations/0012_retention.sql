-- Retention: what is purged by age or erased on request, what is kept of it, and replays.

-- One batch of purging, one transaction. Its "content" is the digest of what it names for the first time, and
-- is in the chain: so what was purged cannot be changed under that excuse, nor be purged unseen. "touched" are the
-- statements and runs in which it was the first to purge a number.
CREATE TABLE purges (
    id uuid NOT NULL,
    account text NOT NULL,
    what text NOT NULL,
    purged_at timestamptz NOT NULL,
    purged_by text NOT NULL,
    records integer NOT NULL,
    messages integer NOT NULL,
    content bytea NOT NULL,
    touched uuid [] NOT NULL,
    linked boolean NOT NULL DEFAULT FALSE,
    CONSTRAINT purges_pkey PRIMARY KEY (id),
    CONSTRAINT purges_what_check CHECK (what IN ('bodies', 'texts', 'numbers', 'erasure')),
    CONSTRAINT purges_content_check CHECK (length(content) = 32)
);
CREATE INDEX purges_unlinked_idx ON purges (purged_at, id) WHERE NOT linked;

-- A purged record keeps its digest, so it is known for ever, and how large it was.
ALTER TABLE records ADD COLUMN purge_id uuid;
ALTER TABLE records ADD COLUMN purged_bytes integer;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX records_purge_idx ON records (purge_id) WHERE purge_id IS NOT NULL;

-- By which purge a message lost its text, or its number, first.
ALTER TABLE messages ADD COLUMN purge_id uuid;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX messages_purge_idx ON messages (purge_id) WHERE purge_id IS NOT NULL;

-- The digests that were linked, kept before the first of the rows that they are over is purged.
ALTER TABLE statements ADD COLUMN lines_sha256 text;
ALTER TABLE runs ADD COLUMN discrepancies_sha256 text;
ALTER TABLE runs ADD COLUMN reports_sha256 text;

-- squawk-ignore ban-drop-constraint
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_kind_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE chain_entries ADD CONSTRAINT chain_entries_kind_check CHECK (
    kind IN ('record', 'message', 'statement', 'run', 'purge')
);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX cases_unfinished_idx ON cases (account, shard, vendor_message_id) WHERE ended_at IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX adjustments_key_idx ON adjustments (shard, key);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX credit_lines_phone_idx ON credit_lines (account, vendor_message_id) WHERE phone IS NOT NULL;

-- Days of which nothing is left to purge; looked at again in time, for what was registered late.
CREATE TABLE purged_days (
    account text NOT NULL,
    what text NOT NULL,
    day date NOT NULL,
    done_at timestamptz NOT NULL,
    CONSTRAINT purged_days_pkey PRIMARY KEY (account, what, day)
);

-- Records that name a message whose number was purged before they came: not kept until they are old.
CREATE TABLE late_records (
    digest bytea NOT NULL,
    account text NOT NULL,
    CONSTRAINT late_records_pkey PRIMARY KEY (digest)
);

-- Which key pseudonyms were made with, as a digest that tells nothing of it: another key is refused.
CREATE TABLE pseudonym_keys (
    one boolean NOT NULL DEFAULT TRUE,
    fingerprint bytea NOT NULL,
    CONSTRAINT pseudonym_keys_pkey PRIMARY KEY (one),
    CONSTRAINT pseudonym_keys_one_check CHECK (one)
);

-- Numbers erased on request: who asked for it and what was found, never the number.
CREATE TABLE erasures (
    id uuid NOT NULL,
    pseudonym text NOT NULL,
    requested_at timestamptz NOT NULL,
    requested_by text NOT NULL,
    finished_at timestamptz,
    found jsonb NOT NULL,
    held integer NOT NULL DEFAULT 0,
    CONSTRAINT erasures_pkey PRIMARY KEY (id)
);
CREATE INDEX erasures_requested_idx ON erasures (requested_at, id);

-- Stored bytes parsed again and what that changed; counts grow with each batch's transaction.
CREATE TABLE replays (
    id uuid NOT NULL,
    replayed_by text NOT NULL,
    parsers text NOT NULL,
    account text,
    since timestamptz,
    until timestamptz,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    counts jsonb NOT NULL,
    CONSTRAINT replays_pkey PRIMARY KEY (id)
);
-- Reports that a replay read otherwise. What a run was linked with stays provable by them.
CREATE TABLE superseded_reports (
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    digest bytea NOT NULL,
    replay_id uuid NOT NULL,
    account text NOT NULL,
    vendor_message_id text NOT NULL,
    phone text NOT NULL,
    status text NOT NULL,
    vendor_code text NOT NULL,
    reason text,
    reported_at timestamptz,
    received_at timestamptz NOT NULL,
    source text NOT NULL,
    billed_segments integer,
    billed_price numeric,
    billed_amount numeric,
    billed_currency text,
    CONSTRAINT superseded_reports_pkey PRIMARY KEY (shard, message_id, fingerprint, digest)
);
CREATE INDEX replays_started_idx ON replays (started_at, id);

-- Whether no number is left in its lines.
ALTER TABLE statements ADD COLUMN numbers_purged boolean NOT NULL DEFAULT FALSE;

-- Roles -----------------------------------------------------------------------------------------------

-- What 0011 grants, and the tables above. Also for later migrations, and for whoever makes the roles later.
CREATE OR REPLACE FUNCTION grant_roles() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'huizhi_receiver') THEN
        GRANT USAGE ON SCHEMA public TO huizhi_receiver;
        GRANT SELECT ON
            migrations, records, batches, quarantine, messages, awaiting, reports, inbound, review_results,
            reviews, balances, submissions, unlinked_messages, moved_messages, suspects, late_records
        TO huizhi_receiver;
        GRANT INSERT ON
            records, batches, quarantine, messages, awaiting, reports, inbound, review_results, reviews,
            balances, unlinked_messages, moved_messages, suspects, late_records
        TO huizhi_receiver;
        -- Of what is evidence only what is counted and marked, never what was said.
        GRANT UPDATE (deliveries, last_received_at) ON records TO huizhi_receiver;
        GRANT UPDATE (recorder, taken_up_at, settled_at) ON batches TO huizhi_receiver;
        GRANT UPDATE (vendor_message_id) ON inbound TO huizhi_receiver;
        GRANT UPDATE ON
            quarantine, messages, awaiting, reports, reviews, submissions, suspects
        TO huizhi_receiver;
        -- A message is moved, by a delete and an insert, when a report says which id it was given; a suspect
        -- report is one no more when what it lacked has come.
        GRANT DELETE ON quarantine, awaiting, messages, suspects TO huizhi_receiver;
    END IF;
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'huizhi_reconciler') THEN
        GRANT USAGE ON SCHEMA public, audit TO huizhi_reconciler;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO huizhi_reconciler;
        GRANT SELECT ON ALL TABLES IN SCHEMA audit TO huizhi_reconciler;
        REVOKE INSERT, UPDATE, DELETE ON migrations FROM huizhi_reconciler;
        -- Only ever added to.
        REVOKE UPDATE, DELETE ON
            operator_actions, chain_links, chain_entries, case_changes, suspect_decisions
        FROM huizhi_reconciler;
        -- But a number is erased everywhere, also from what people noted.
        GRANT UPDATE (note, owner) ON case_changes TO huizhi_reconciler;
        GRANT UPDATE (note) ON suspect_decisions TO huizhi_reconciler;
        -- That something was purged, erased or read otherwise is never forgotten.
        REVOKE DELETE ON purges, pseudonym_keys, erasures, replays, superseded_reports FROM huizhi_reconciler;
        -- It knows tokens, and cannot make one or give one more rights.
        REVOKE INSERT, UPDATE, DELETE ON api_tokens FROM huizhi_reconciler;
        GRANT UPDATE (last_used_at) ON api_tokens TO huizhi_reconciler;
    END IF;
END
$$;
SELECT grant_roles();
