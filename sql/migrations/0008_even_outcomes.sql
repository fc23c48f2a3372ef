-- What a run came to for messages that came out even, by groups: a row for thousands in place of a row for each.

-- Such a message was charged for and billed by one line, alike; or it was neither charged for nor billed. "ids"
-- are their ids, 16 bytes each, and "shard" is the first of the range that theirs are in. Outcomes of runs from
-- before are rows of outcomes still, and so is whatever did not come out even.
CREATE TABLE even_outcomes (
    run_id uuid NOT NULL,
    shard integer NOT NULL,
    seq bigint NOT NULL,
    status text NOT NULL,
    segments integer NOT NULL,
    amount numeric NOT NULL,
    charged boolean NOT NULL,
    ids bytea NOT NULL,
    CONSTRAINT even_outcomes_pkey PRIMARY KEY (run_id, shard, seq),
    CONSTRAINT even_outcomes_ids_check CHECK (length(ids) > 0 AND length(ids) % 16 = 0)
);
-- Hashes have nothing to compress.
ALTER TABLE even_outcomes ALTER COLUMN ids SET STORAGE EXTERNAL;
