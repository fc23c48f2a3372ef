-- The schema "audit": what a telecom auditor or a BI tool may read, with numbers masked. Its views keep
-- their names and columns; a view whose name ends in "_unmasked" shows whole numbers, is for the billing
-- audit queries, and is granted to nobody. Days and time zones: docs/audit.md.

CREATE SCHEMA audit;

-- Mainland number segments (号段) and the carrier (运营商) that each was issued to. Numbers are portable
-- (携号转网): a prefix says who issued the number and not who serves it today.
-- Source: the telecommunication numbering plan of the Ministry of Industry and Information Technology
-- (工信部《电信网编号计划》) with its later allocations, such as 190, 192, 196 and 197 of 2019-12-24. It is
-- data: add to it as new segments are issued.
CREATE TABLE audit.prefixes (
    prefix text NOT NULL,
    carrier text NOT NULL,
    carrier_zh text NOT NULL,
    resold boolean NOT NULL,
    CONSTRAINT prefixes_pkey PRIMARY KEY (prefix),
    CONSTRAINT prefixes_prefix_check CHECK (prefix ~ '^1[0-9]{2,3}$')
);

INSERT INTO audit.prefixes (prefix, carrier, carrier_zh, resold)
SELECT
    p.prefix,
    c.carrier,
    c.carrier_zh,
    c.resold
FROM (
    VALUES
    (
        'China Mobile', '移动', FALSE,
        '134 135 136 137 138 139 147 148 150 151 152 157 158 159 172 178 182 183 184 187 188 195 197 198'
    ),
    ('China Unicom', '联通', FALSE, '130 131 132 145 146 155 156 166 175 176 185 186 196'),
    ('China Telecom', '电信', FALSE, '133 1349 149 153 173 174 177 180 181 189 190 191 193 199'),
    ('China Broadnet', '广电', FALSE, '192'),
    -- Lent to resellers (虚拟运营商), on the network of the carrier named.
    ('China Mobile', '移动', TRUE, '165 1703 1705 1706'),
    ('China Unicom', '联通', TRUE, '167 171 1704 1707 1708 1709'),
    ('China Telecom', '电信', TRUE, '162 1700 1701 1702')
) AS c (carrier, carrier_zh, resold, prefixes)
CROSS JOIN LATERAL unnest(string_to_array(c.prefixes, ' ')) AS p (prefix);

-- 13800138000 as 138****8000; of what is no mainland number the last two digits.
CREATE FUNCTION audit.masked(phone text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN phone ~ '^1[0-9]{10}$' THEN left(phone, 3) || '****' || right(phone, 4)
    ELSE '****' || right(phone, 2)
END;

-- A vendor's words, in which a number may stand.
CREATE FUNCTION audit.redacted(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(words, '[0-9]{3,}([0-9]{4})', '…\1', 'g');

-- Whether a message in this state is charged for; as reconciliation has it (queries/reconcile.sql). On the
-- basis 'accepted', that of vendors who report nothing, what they took is.
CREATE FUNCTION audit.charged(basis text, status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE basis
    WHEN 'submitted' THEN status NOT IN ('refused', 'submitting', 'indeterminate')
    WHEN 'accepted' THEN status IN ('submitted', 'delivered')
    ELSE status = 'delivered'
END;

-- Messages --------------------------------------------------------------------------------------------

-- What was sent, or may have been: not what a vendor refused. What has no vendor id yet stands under a
-- provisional one, which is nobody's business.
CREATE VIEW audit.sent_unmasked AS
SELECT
    m.shard,
    m.id,
    m.account,
    CASE WHEN m.status NOT IN ('submitting', 'indeterminate') THEN m.vendor_message_id END AS vendor_message_id,
    m.phone,
    m.sent_at,
    m.registered_at,
    m.segments,
    m.segments_given,
    m.status,
    m.reported_at,
    m.vendor_code,
    m.reason,
    m.contradicted,
    m.content,
    m.sign,
    m.reference,
    m.template_id
FROM messages AS m
WHERE m.status <> 'refused';

CREATE VIEW audit.messages_unmasked AS
SELECT
    m.id,
    m.account,
    CASE
        WHEN m.status NOT IN ('submitting', 'indeterminate', 'refused') THEN m.vendor_message_id
    END AS vendor_message_id,
    m.phone,
    left(m.phone, 3) AS prefix,
    coalesce(p4.carrier, p3.carrier) AS carrier,
    coalesce(p4.carrier_zh, p3.carrier_zh) AS carrier_zh,
    m.sent_at,
    m.registered_at,
    m.segments,
    m.segments_given,
    m.status,
    m.reported_at,
    CASE WHEN m.status IN ('delivered', 'failed') THEN extract(EPOCH FROM m.reported_at - m.sent_at) END
    AS latency_seconds,
    m.vendor_code,
    m.reason,
    m.contradicted,
    m.sign,
    m.reference,
    m.template_id,
    m.content
FROM messages AS m
LEFT JOIN audit.prefixes AS p4 ON length(m.phone) = 11 AND left(m.phone, 4) = p4.prefix
LEFT JOIN audit.prefixes AS p3 ON length(m.phone) = 11 AND left(m.phone, 3) = p3.prefix;

CREATE VIEW audit.messages AS
SELECT
    id,
    account,
    vendor_message_id,
    audit.masked(phone) AS phone,
    prefix,
    carrier,
    carrier_zh,
    sent_at,
    registered_at,
    segments,
    segments_given,
    status,
    reported_at,
    latency_seconds,
    vendor_code,
    audit.redacted(reason) AS reason,
    contradicted,
    sign,
    reference,
    template_id
FROM audit.messages_unmasked;

-- By the days of the session's TimeZone.
CREATE VIEW audit.daily AS
SELECT
    m.account,
    m.sent_at::date AS day,
    count(*) AS messages,
    sum(m.segments) AS segments,
    count(*) FILTER (WHERE m.status = 'delivered') AS delivered,
    count(*) FILTER (WHERE m.status = 'failed') AS failed,
    count(*) FILTER (WHERE m.status NOT IN ('delivered', 'failed')) AS unresolved,
    coalesce(sum(m.segments) FILTER (WHERE m.status = 'delivered'), 0) AS delivered_segments,
    count(*) FILTER (WHERE m.contradicted) AS contradicted
FROM audit.sent_unmasked AS m
GROUP BY m.account, m.sent_at::date;

CREATE VIEW audit.reports AS
SELECT
    r.account,
    r.message_id,
    r.vendor_message_id,
    audit.masked(r.phone) AS phone,
    r.status,
    r.vendor_code,
    audit.redacted(r.reason) AS reason,
    r.reported_at,
    r.received_at,
    r.source,
    r.orphan AND NOT r.alternate AS orphan,
    encode(r.digest, 'hex') AS record
FROM reports AS r;

-- Bills -----------------------------------------------------------------------------------------------

-- "newest" is the version that holds for its account and period.
CREATE VIEW audit.statements AS
SELECT
    s.id,
    s.account,
    s.first_day,
    s.last_day,
    s.version,
    NOT EXISTS (
        SELECT 1
        FROM statements AS later
        WHERE
            later.account = s.account
            AND later.first_day = s.first_day
            AND later.last_day = s.last_day
            AND later.version > s.version
    ) AS newest,
    s.file_name,
    s.format,
    s.lines,
    s.segments,
    s.amount,
    s.imported_at
FROM statements AS s;

-- Each line with the message that it names, by its phone or by the vendor's id alone.
CREATE VIEW audit.lines_unmasked AS
SELECT
    s.account,
    s.id AS statement_id,
    s.first_day,
    s.last_day,
    s.version,
    s.newest,
    l.line,
    l.shard,
    m.id AS message_id,
    l.vendor_message_id,
    l.phone,
    l.segments,
    l.amount,
    l.sent_at,
    l.status,
    m.sent_at AS message_sent_at,
    m.status AS message_status,
    m.segments AS message_segments
FROM audit.statements AS s
INNER JOIN lines AS l ON s.id = l.statement_id AND l.message_id IS NOT NULL
LEFT JOIN messages AS m ON l.shard = m.shard AND l.message_id = m.id AND s.account = m.account
UNION ALL
SELECT
    s.account,
    s.id,
    s.first_day,
    s.last_day,
    s.version,
    s.newest,
    l.line,
    l.shard,
    m.id,
    l.vendor_message_id,
    m.phone,
    l.segments,
    l.amount,
    l.sent_at,
    l.status,
    m.sent_at,
    m.status,
    m.segments
FROM audit.statements AS s
INNER JOIN lines AS l ON s.id = l.statement_id AND l.message_id IS NULL
LEFT JOIN messages AS m
    ON l.shard = m.shard AND s.account = m.account AND l.vendor_message_id = m.vendor_message_id;

CREATE VIEW audit.lines AS
SELECT
    account,
    statement_id,
    first_day,
    last_day,
    version,
    newest,
    line,
    message_id,
    vendor_message_id,
    audit.masked(phone) AS phone,
    segments,
    amount,
    sent_at,
    status,
    message_sent_at,
    message_status,
    message_segments
FROM audit.lines_unmasked;

-- Reconciliation --------------------------------------------------------------------------------------

-- "newest" is the last run of its account and period.
CREATE VIEW audit.runs AS
SELECT
    r.id,
    r.account,
    r.first_day,
    r.last_day,
    r.statement_id,
    (r.rules ->> 'statement_version')::integer AS statement_version,
    r.run_at,
    NOT EXISTS (
        SELECT 1
        FROM runs AS later
        WHERE
            later.account = r.account
            AND later.first_day = r.first_day
            AND later.last_day = r.last_day
            AND (later.run_at, later.id) > (r.run_at, r.id)
    ) AS newest,
    r.result ->> 'status' AS status,
    r.result ->> 'currency' AS currency,
    (r.result -> 'sent' ->> 'messages')::bigint AS sent_messages,
    (r.result -> 'owed' ->> 'segments')::bigint AS owed_segments,
    (r.result -> 'owed' ->> 'amount')::numeric AS owed_amount,
    (r.result -> 'billed' ->> 'segments')::bigint AS billed_segments,
    (r.result -> 'billed' ->> 'amount')::numeric AS billed_amount,
    (r.result -> 'difference' ->> 'amount')::numeric AS difference_amount
FROM runs AS r;

CREATE VIEW audit.discrepancies_unmasked AS
SELECT
    r.account,
    r.id AS run_id,
    r.first_day,
    r.last_day,
    r.newest,
    d.seq,
    d.kind,
    d.message_id,
    d.vendor_message_id,
    d.phone,
    d.line,
    d.sent_at,
    d.status,
    d.owed_segments,
    d.billed_segments,
    d.price,
    d.billed_amount,
    d.segments,
    d.amount,
    r.currency
FROM audit.runs AS r
INNER JOIN discrepancies AS d ON r.id = d.run_id;

CREATE VIEW audit.discrepancies AS
SELECT
    account,
    run_id,
    first_day,
    last_day,
    newest,
    seq,
    kind,
    message_id,
    vendor_message_id,
    audit.masked(phone) AS phone,
    line,
    sent_at,
    status,
    owed_segments,
    billed_segments,
    price,
    billed_amount,
    segments,
    amount,
    currency
FROM audit.discrepancies_unmasked;

-- The role --------------------------------------------------------------------------------------------

-- A group to put log-ins into: it reads the masked views and nothing else. Where the migrating user may
-- not make roles it is left out, and docs/audit.md says what to run by hand.
DO $$
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'auditor') THEN
            CREATE ROLE auditor NOLOGIN;
        END IF;
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this server was faster
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'the role auditor was not made: % may not make roles', current_user;
    END;
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT USAGE ON SCHEMA audit TO auditor;
        GRANT SELECT ON
            audit.prefixes,
            audit.messages,
            audit.daily,
            audit.reports,
            audit.statements,
            audit.lines,
            audit.runs,
            audit.discrepancies
        TO auditor;
    END IF;
END
$$;
