-- One callback's row in a transaction of its own. All its bytes come with each execution, as parameters;
-- only the id, and with it the digest, differs from row to row, as in the callbacks themselves.
\set n :n + 1
\set id :first + :client_id * 100000000 + :n
INSERT INTO baseline_records (
    digest,
    account,
    source,
    call,
    subject,
    batch_id,
    received_at,
    last_received_at,
    deliveries,
    method,
    query,
    headers,
    body,
    peer
)
VALUES (
    sha256(:id::bytea),
    :account,
    'push',
    NULL,
    NULL,
    :n,
    now(),
    now(),
    1,
    :method,
    '',
    :headers,
    convert_to(:body_head || :id || :body_tail, 'UTF8'),
    :peer
);
