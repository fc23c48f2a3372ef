-- What was linked is found by its key, and a table that is spread over servers by a column has it in every
-- unique key. That no two entries have one place in a link, the chain's own check says.
-- squawk-ignore ban-drop-constraint
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_pkey;
-- squawk-ignore constraint-missing-not-valid, adding-serial-primary-key-field
ALTER TABLE chain_entries ADD CONSTRAINT chain_entries_pkey PRIMARY KEY (height, position, key);
