-- Asks: Is one delivery time, to the second, suspiciously common?
-- 问: 是否有某个送达时延（精确到秒）多得可疑？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter percent (decimal, default 20, 0 to 100): of at least so many in 100 | 占比至少为百分之几
-- Parameter least (integer, default 100, 1 to 100000000): look only where there are at least so many messages | 至少有这么多短信才统计
-- Binds: account, starts, ends, percent, least, limit
-- Column account (text) 账号: the account | 账号
-- Column latency_seconds (integer) 时延秒数: whole seconds from sending to the report | 从发送到回执的整秒数
-- Column messages (integer) 送达数: delivered messages that took so long | 用时相同的送达短信数
-- Column percent (decimal) 占比: in 100 delivered messages | 每百条送达短信中的数量
-- Note: a sign that reports may be made up, and no proof: ask the vendor for the carrier's own receipts | 只是回执可能造假的迹象，不是证据：请向厂商索要运营商的原始回执

SELECT
    $1::text AS account,
    s.latency_seconds,
    s.messages,
    s.percent
FROM (
    SELECT
        floor(extract(EPOCH FROM m.reported_at - m.sent_at))::integer AS latency_seconds,
        count(*) AS messages,
        round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent,
        sum(count(*)) OVER () AS all_messages
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
        AND m.status = 'delivered'
        AND m.reported_at IS NOT NULL
    GROUP BY 1
) AS s
WHERE s.percent >= $4::numeric AND s.all_messages >= $5::integer
ORDER BY s.messages DESC, s.latency_seconds
LIMIT $6::bigint;
