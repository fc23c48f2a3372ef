-- What operators did is linked as all else is; an erasure that takes long can be looked at.

-- Rows of operator_actions that are not linked yet.
CREATE TABLE unlinked_actions (
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT unlinked_actions_pkey PRIMARY KEY (id)
);
CREATE INDEX unlinked_actions_at_idx ON unlinked_actions (at, id);
INSERT INTO unlinked_actions (id, at)
SELECT
    id,
    at
FROM operator_actions;

-- squawk-ignore ban-drop-constraint
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_kind_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE chain_entries ADD CONSTRAINT chain_entries_kind_check CHECK (
    kind IN ('record', 'message', 'statement', 'run', 'purge', 'action', 'outcome')
);

-- When whoever erases last said that it still does; null once it has come to its end.
ALTER TABLE erasures ADD COLUMN worked_at timestamptz;

SELECT grant_roles();
