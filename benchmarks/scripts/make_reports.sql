-- The rows of insert_reports, made by the server: nothing arrives but three numbers.
\set n :n + 200
\set id :first + :client_id * 100000000 + :n
INSERT INTO baseline_reports (
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
    orphan
)
SELECT
    hashint8(i),
    encode(substring(sha256(int8send(i)) FOR 16), 'hex')::uuid,
    substring(sha256(int8send(-i)) FOR 16),
    :account,
    (i / 100)::text,
    (13800000000 + i % 100000000)::text,
    'delivered',
    '10',
    'DELIVRD',
    now(),
    now(),
    'pull',
    sha256(int8send(i / 4000)),
    FALSE
FROM generate_series(:id::bigint, :id::bigint + 199) AS s (i);
