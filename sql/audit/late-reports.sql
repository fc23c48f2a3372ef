-- Asks: Which final reports came late, on each day of sending?
-- 问: 每天发送的短信中，哪些终态报告来得晚？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter hours (integer, default 24, 1 to 8760): late is more than so many hours after sending | 发送后超过这么多小时算迟到
-- Binds: account, zone, hours, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column reported (integer) 有回执: messages with a final report | 有终态报告的短信数
-- Column late (integer) 迟到数: of these, received more than so many hours after sending | 其中发送后超过若干小时才收到的
-- Column percent (decimal) 迟到率: late in 100 reported | 每百条有回执的短信中迟到的数量
-- Column passed_on_late (integer) 厂商迟推: of the late ones, those that by the vendor's own time were in time | 迟到的回执中，按厂商时间本未迟到的
-- Column slowest_hours (decimal) 最晚小时数: the longest wait, in hours | 最长的等待小时数

SELECT
    $1::text AS account,
    c.day,
    count(*) AS reported,
    count(*) FILTER (WHERE c.late) AS late,
    round(100.0 * count(*) FILTER (WHERE c.late) / count(*), 2) AS percent,
    count(*) FILTER (WHERE c.late AND c.reported_at <= c.due) AS passed_on_late,
    round(max(extract(EPOCH FROM c.received_at - c.sent_at)) / 3600, 2) AS slowest_hours
FROM (
    SELECT
        (m.sent_at AT TIME ZONE $2::text)::date AS day,
        m.sent_at,
        m.reported_at,
        m.sent_at + make_interval(hours => $3::integer) AS due,
        r.received_at,
        r.received_at > m.sent_at + make_interval(hours => $3::integer) AS late
    FROM audit.sent_unmasked AS m
    CROSS JOIN LATERAL (
        SELECT min(f.received_at) AS received_at
        FROM reports AS f
        WHERE f.shard = m.shard AND f.message_id = m.id AND f.status IN ('delivered', 'failed') AND NOT f.left_out
    ) AS r
    WHERE
        m.account = $1::text AND m.sent_at >= $4::timestamptz AND m.sent_at < $5::timestamptz
        AND m.status IN ('delivered', 'failed')
        AND r.received_at IS NOT NULL
) AS c
GROUP BY c.day
ORDER BY c.day
LIMIT $6::bigint;
