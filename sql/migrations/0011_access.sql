-- Who may ask the API for what, what operators did, and what each process may touch.

-- API tokens beside the one of the settings. Only the sha256 of a token is kept; of one name at most two live
-- at a time, so that one can be rotated out.
CREATE TABLE api_tokens (
    id uuid NOT NULL,
    name text NOT NULL,
    slot integer NOT NULL,
    role text NOT NULL,
    sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT api_tokens_sha256_key UNIQUE (sha256),
    CONSTRAINT api_tokens_sha256_check CHECK (length(sha256) = 32),
    CONSTRAINT api_tokens_role_check CHECK (role IN ('reader', 'operator', 'admin')),
    CONSTRAINT api_tokens_slot_check CHECK (slot IN (1, 2))
);
CREATE UNIQUE INDEX api_tokens_living_idx ON api_tokens (name, slot) WHERE revoked_at IS NULL;

-- What operators did: a row before ('begun'), and one after it under the same action. One that has no second
-- row was cut off. Holds no phone number and no text of a message.
CREATE TABLE operator_actions (
    id uuid NOT NULL,
    action_id uuid NOT NULL,
    at timestamptz NOT NULL,
    outcome text NOT NULL,
    actor text NOT NULL,
    role text NOT NULL,
    via text NOT NULL,
    peer text NOT NULL,
    what text NOT NULL,
    subject jsonb NOT NULL,
    status integer,
    CONSTRAINT operator_actions_pkey PRIMARY KEY (id),
    CONSTRAINT operator_actions_via_check CHECK (via IN ('api', 'command')),
    CONSTRAINT operator_actions_outcome_check CHECK (outcome IN ('begun', 'done', 'refused', 'failed')),
    CONSTRAINT operator_actions_status_check CHECK ((outcome = 'begun') = (status IS NULL))
);
CREATE UNIQUE INDEX operator_actions_action_idx ON operator_actions (action_id, (outcome = 'begun'));
CREATE INDEX operator_actions_begun_idx ON operator_actions (at, action_id) WHERE outcome = 'begun';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', tg_table_name USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER operator_actions_append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Roles -----------------------------------------------------------------------------------------------

-- What each process may touch; the owner is for migrations and commands. Services become these by themselves
-- where their log-in may, or are given a log-in in one of them. Where the migrating user may not make roles
-- they are left out, and docs/security.md says what to run by hand.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['huizhi_receiver', 'huizhi_reconciler'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = wanted) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this server was faster
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'the role % was not made: % may not make roles', wanted, current_user;
        END;
    END LOOP;
END
$$;

-- Grants what the roles that there are may do; also for later migrations, and for whoever makes the roles later.
CREATE FUNCTION grant_roles() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'huizhi_receiver') THEN
        GRANT USAGE ON SCHEMA public TO huizhi_receiver;
        GRANT SELECT ON
            migrations, records, batches, quarantine, messages, awaiting, reports, inbound, review_results,
            reviews, balances, submissions, unlinked_messages, moved_messages, suspects
        TO huizhi_receiver;
        GRANT INSERT ON
            records, batches, quarantine, messages, awaiting, reports, inbound, review_results, reviews,
            balances, unlinked_messages, moved_messages, suspects
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
        -- It knows tokens, and cannot make one or give one more rights.
        REVOKE INSERT, UPDATE, DELETE ON api_tokens FROM huizhi_reconciler;
        GRANT UPDATE (last_used_at) ON api_tokens TO huizhi_reconciler;
    END IF;
END
$$;
SELECT grant_roles();

-- Tables of later migrations are the reconciler's too.
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'huizhi_reconciler') THEN
        ALTER DEFAULT PRIVILEGES IN SCHEMA public
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO huizhi_reconciler;
        ALTER DEFAULT PRIVILEGES IN SCHEMA audit
        GRANT SELECT ON TABLES TO huizhi_reconciler;
    END IF;
END
$$;
