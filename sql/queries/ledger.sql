-- The ledger of sent messages.

-- name: register
-- Adds messages that were sent; one known already changes nothing. Those of the accounts $13 await a report: it is
-- asked for $14 seconds after sending. Returns how many were new, and the ids of those.
WITH given AS (
    SELECT
        t.shard,
        t.id,
        t.account,
        t.vendor_message_id,
        t.phone,
        t.sent_at,
        t.segments,
        t.segments_given,
        t.content,
        t.sign,
        t.reference,
        t.template_id
    FROM unnest(
        $1::integer[],
        $2::uuid[],
        $3::text[],
        $4::text[],
        $5::text[],
        $6::timestamptz[],
        $7::integer[],
        $8::boolean[],
        $9::text[],
        $10::text[],
        $11::text[],
        $12::text[]
    ) AS t (
        shard,
        id,
        account,
        vendor_message_id,
        phone,
        sent_at,
        segments,
        segments_given,
        content,
        sign,
        reference,
        template_id
    )
),

registered AS (
    INSERT INTO messages (
        shard,
        id,
        account,
        vendor_message_id,
        phone,
        sent_at,
        registered_at,
        segments,
        segments_given,
        status,
        content,
        sign,
        reference,
        template_id
    )
    SELECT
        g.shard,
        g.id,
        g.account,
        g.vendor_message_id,
        g.phone,
        g.sent_at,
        $15,
        g.segments,
        g.segments_given,
        'submitted',
        g.content,
        g.sign,
        g.reference,
        g.template_id
    FROM given AS g
    ON CONFLICT (shard, id) DO NOTHING
    RETURNING shard, id, account, sent_at
),

awaited AS (
    INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
    SELECT
        r.shard,
        r.id,
        r.account,
        r.sent_at,
        greatest($15, r.sent_at + make_interval(secs => w.seconds))
    FROM registered AS r
    INNER JOIN unnest($13::text[], $14::float8[]) AS w (account, seconds) ON r.account = w.account
),

unlinked AS (
    INSERT INTO unlinked_messages (registered_at, message_ids)
    SELECT
        $15,
        array_agg(r.id ORDER BY r.id)
    FROM registered AS r
    HAVING count(*) > 0
)

SELECT
    count(*) AS recorded,
    CASE WHEN count(*) < cardinality($1) THEN array_agg(r.id) END AS ids
FROM registered AS r;
