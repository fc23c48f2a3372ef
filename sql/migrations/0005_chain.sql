-- The chain: everything recorded, link by link, each link's hash made of the one before it.

-- A link is over the Merkle root of its entries. Never rewritten; its token is the lease's that made it.
CREATE TABLE chain_links (
    height bigint NOT NULL,
    previous bytea NOT NULL,
    root bytea NOT NULL,
    entries integer NOT NULL,
    linked_at timestamptz NOT NULL,
    hash bytea NOT NULL,
    token bigint NOT NULL,
    CONSTRAINT chain_links_pkey PRIMARY KEY (height),
    CONSTRAINT chain_links_hash_key UNIQUE (hash),
    CONSTRAINT chain_links_height_check CHECK (height >= 1),
    CONSTRAINT chain_links_entries_check CHECK (entries >= 1),
    CONSTRAINT chain_links_hash_check CHECK (length(previous) = 32 AND length(root) = 32 AND length(hash) = 32)
);

-- What was linked: a record by its digest, anything else by its id. "content" is the sha256 of what the key
-- itself does not cover, so that the chain can be checked when the bytes themselves are gone.
CREATE TABLE chain_entries (
    height bigint NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL,
    key bytea NOT NULL,
    account text NOT NULL,
    at timestamptz NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT chain_entries_pkey PRIMARY KEY (height, position),
    CONSTRAINT chain_entries_key UNIQUE (key, kind),
    CONSTRAINT chain_entries_kind_check CHECK (kind IN ('record', 'message', 'statement', 'run')),
    CONSTRAINT chain_entries_content_check CHECK (length(content) = 32)
);

-- In which link a batch's records are. Recording a callback touches neither index: a row enters the first
-- when it is settled.
ALTER TABLE batches ADD COLUMN height bigint;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_unlinked_idx ON batches (recorded_at, id) WHERE settled_at IS NOT NULL AND height IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_height_idx ON batches (height) WHERE height IS NOT NULL;

-- Messages that got the id which they are reported and billed by, and are not linked yet: one row a call.
CREATE TABLE unlinked_messages (
    id bigint GENERATED ALWAYS AS IDENTITY,
    registered_at timestamptz NOT NULL,
    message_ids uuid [] NOT NULL,
    CONSTRAINT unlinked_messages_pkey PRIMARY KEY (id)
);
INSERT INTO unlinked_messages (registered_at, message_ids)
SELECT
    min(m.registered_at),
    array_agg(m.id)
FROM (
    SELECT
        id,
        registered_at,
        row_number() OVER (ORDER BY shard, id) / 5000 AS part
    FROM messages
    WHERE vendor_message_id NOT LIKE '~%'
) AS m
GROUP BY m.part
ORDER BY m.part;

-- The reports on the messages that a run disputes, as they were when the run was linked: later ones are not
-- its evidence. The reply that a message was sent with has an empty fingerprint.
CREATE TABLE run_reports (
    run_id uuid NOT NULL,
    shard integer NOT NULL,
    message_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT run_reports_pkey PRIMARY KEY (run_id, message_id, fingerprint, shard)
);
