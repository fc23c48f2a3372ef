-- The short way of settling, in one call: a transaction of several statements waits for the receiver between
-- them, which has callbacks to read and to answer.

-- Settles what the query of the same name says. Each statement in here sees all that was committed before it
-- began: the second one sees every report that was ever folded into a message that the first one has locked.
-- A session plans them once, maybe while the tables are empty: so whatever the planner has heard of them, each row
-- is looked up by its key, or by where it lies, and none is read whole.
CREATE FUNCTION settle_plain(
    shards integer [],
    ids uuid [],
    fingerprints bytea [],
    vendor_message_ids text [],
    phones text [],
    reasons text [],
    reported timestamptz [],
    received timestamptz [],
    digests bytea [],
    heads integer [],
    accounts text [],
    statuses text [],
    vendor_codes text [],
    sources text [],
    slacks float8 [],
    batches bigint [],
    settled timestamptz
) RETURNS TABLE (shard integer, message_id uuid) LANGUAGE plpgsql
SET enable_seqscan TO 'off'
SET enable_hashjoin TO 'off'
SET enable_mergejoin TO 'off'
SET plan_cache_mode TO 'force_generic_plan'
AS $$
#variable_conflict use_column
DECLARE
    places tid[];
    others bigint;
BEGIN
    -- Locked in the order given, which is that of lock_messages; and where each row lies, or nothing if it is
    -- not to be settled here.
    places := ARRAY(
        SELECT l.place
        FROM unnest(shards, ids, reported, received, heads) AS t (shard, id, reported_at, received_at, head)
        LEFT JOIN LATERAL (
            SELECT m.ctid AS place
            FROM messages AS m
            WHERE
                m.shard = t.shard
                AND m.id = t.id
                AND m.status IN ('submitted', 'expired')
                AND m.phone !~ '[A-Za-z]'
                AND NOT coalesce(
                    date_part('epoch', m.sent_at) > date_part(
                        'epoch', coalesce(t.reported_at, t.received_at) + make_interval(secs => slacks[t.head])
                    ),
                    FALSE
                )
            LIMIT 1
            FOR NO KEY UPDATE
        ) AS l ON TRUE
    );

    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT
            t.*,
            t.place IS NOT NULL AND e.found IS NULL AS first
        FROM unnest(
            shards,
            ids,
            fingerprints,
            vendor_message_ids,
            phones,
            reasons,
            reported,
            received,
            digests,
            heads,
            places
        ) AS t (
            shard,
            id,
            fingerprint,
            vendor_message_id,
            phone,
            reason,
            reported_at,
            received_at,
            digest,
            head,
            place
        )
        LEFT JOIN LATERAL (
            SELECT 1 AS found
            FROM reports AS k
            WHERE k.shard = t.shard AND k.message_id = t.id
            LIMIT 1
        ) AS e ON TRUE
    ),

    added AS (
        INSERT INTO reports (
            shard,
            message_id,
            fingerprint,
            account,
            vendor_message_id,
            phone,
            status,
            vendor_code,
            reason,
            reported_at,
            received_at,
            source,
            digest,
            alternate,
            sent_by,
            left_out,
            orphan
        )
        SELECT
            g.shard,
            g.id,
            g.fingerprint,
            accounts[g.head],
            g.vendor_message_id,
            g.phone,
            statuses[g.head],
            vendor_codes[g.head],
            g.reason,
            g.reported_at,
            g.received_at,
            sources[g.head],
            g.digest,
            FALSE,
            coalesce(g.reported_at, g.received_at) + make_interval(secs => slacks[g.head]),
            FALSE,
            FALSE
        FROM given AS g
        WHERE g.first
    ),

    folded AS (
        UPDATE messages AS m
        SET
            status = statuses[g.head],
            vendor_code = vendor_codes[g.head],
            reason = g.reason,
            reported_at = g.reported_at
        FROM given AS g
        WHERE g.first AND m.ctid = g.place
    ),

    awaited AS (
        DELETE FROM awaiting AS a
        USING given AS g
        WHERE g.first AND a.shard = g.shard AND a.message_id = g.id
    )

    SELECT
        g.shard,
        g.id
    FROM given AS g
    WHERE NOT g.first;

    GET DIAGNOSTICS others = ROW_COUNT;
    IF others = 0 AND cardinality(batches) > 0 THEN
        UPDATE batches AS b
        SET settled_at = settled
        WHERE b.id = ANY(settle_plain.batches);
    END IF;
END
$$;
