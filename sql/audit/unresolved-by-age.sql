-- Asks: What evidence is still unresolved, and since when?
-- 问: 哪些证据仍未落定，拖了多久？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter days (integer, default 92, 1 to 36500): of expired and indeterminate messages, those sent in the last so many days | 已到期和结果不明的短信只看最近这么多天发送的
-- Binds: account, now, days, limit
-- Column account (text) 账号: the account | 账号
-- Column kind (text) 类别: waiting (no final report yet, still asked for), expired (given up), indeterminate (a send of unknown outcome), orphan (report without a message) or quarantined (record not understood) | 等待终态报告、已到期、发送结果不明、孤儿回执或被隔离的记录
-- Column age (text) 时长: how old: under 1 hour, under 1 day, under 3 days, under 7 days, under 30 days, or older | 时长：不到 1 小时、1 天、3 天、7 天、30 天或更久
-- Column items (integer) 数量: how many | 数量
-- Column oldest (time) 最早: the oldest of them | 其中最早的时间

WITH open AS (
    SELECT
        'waiting' AS kind,
        w.sent_at AS since
    FROM awaiting AS w
    WHERE w.account = $1::text
    UNION ALL
    SELECT
        m.status,
        m.sent_at
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text
        AND m.sent_at >= $2::timestamptz - make_interval(days => $3::integer)
        AND m.status IN ('expired', 'indeterminate')
    UNION ALL
    SELECT
        'orphan',
        min(r.received_at)
    FROM reports AS r
    WHERE r.orphan AND r.account = $1::text
    GROUP BY r.message_id
    UNION ALL
    SELECT
        'quarantined',
        q.received_at
    FROM quarantine AS q
    WHERE q.account = $1::text
)

SELECT
    $1::text AS account,
    o.kind,
    CASE width_bucket(
        extract(EPOCH FROM $2::timestamptz - o.since), ARRAY[3600, 86400, 259200, 604800, 2592000]::numeric[]
    )
        WHEN 0 THEN 'under 1 hour'
        WHEN 1 THEN 'under 1 day'
        WHEN 2 THEN 'under 3 days'
        WHEN 3 THEN 'under 7 days'
        WHEN 4 THEN 'under 30 days'
        ELSE 'older'
    END AS age,
    count(*) AS items,
    min(o.since) AS oldest
FROM open AS o
GROUP BY 2, 3
ORDER BY o.kind, oldest
LIMIT $4::bigint;
