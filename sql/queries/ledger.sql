-- The ledger of sent messages.

-- name: register
-- Adds messages that were sent; one known already changes nothing. Those without a next_poll_at await no
-- report. Returns those that were new.
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
        t.template_id,
        t.next_poll_at
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
        $12::text[],
        $13::timestamptz[]
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
        template_id,
        next_poll_at
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
        $14,
        g.segments,
        g.segments_given,
        'submitted',
        g.content,
        g.sign,
        g.reference,
        g.template_id
    FROM given AS g
    ON CONFLICT (shard, id) DO NOTHING
    RETURNING shard, id
),

awaited AS (
    INSERT INTO awaiting (shard, message_id, account, sent_at, next_poll_at)
    SELECT
        g.shard,
        g.id,
        g.account,
        g.sent_at,
        g.next_poll_at
    FROM registered AS r
    INNER JOIN given AS g ON r.shard = g.shard AND r.id = g.id
    WHERE g.next_poll_at IS NOT NULL
),

unlinked AS (
    INSERT INTO unlinked_messages (registered_at, message_ids)
    SELECT
        $14,
        array_agg(r.id ORDER BY r.id)
    FROM registered AS r
    HAVING count(*) > 0
)

SELECT
    r.shard,
    r.id
FROM registered AS r;
