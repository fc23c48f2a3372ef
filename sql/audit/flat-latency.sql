-- Asks: In which hours did nearly all deliveries take equally long?
-- 问: 哪些小时内几乎所有短信的送达时延都一样？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter seconds (decimal, default 1, 0 to 86400): spread of at most so many seconds | 时延跨度不超过的秒数
-- Parameter least (integer, default 100, 1 to 100000000): look only where there are at least so many messages | 至少有这么多短信才统计
-- Binds: account, zone, starts, ends, least, seconds, limit
-- Column account (text) 账号: the account | 账号
-- Column hour (time) 小时: the first moment of the hour of sending | 发送所在小时的开始时刻
-- Column messages (integer) 送达数: delivered messages with a time | 带时间的送达短信数
-- Column p10_seconds (decimal) 一成时延: one in ten took at most so many seconds | 一成的短信不超过的秒数
-- Column p90_seconds (decimal) 九成时延: nine in ten took at most so many | 九成的回执不超过的秒数
-- Column spread_seconds (decimal) 时延跨度: the second less the first | 两者之差
-- Note: a sign that reports may be made up, and no proof: ask the vendor for the carrier's own receipts | 只是回执可能造假的迹象，不是证据：请向厂商索要运营商的原始回执

SELECT
    $1::text AS account,
    h.hour,
    h.messages,
    h.p10_seconds,
    h.p90_seconds,
    h.p90_seconds - h.p10_seconds AS spread_seconds
FROM (
    SELECT
        date_trunc('hour', m.sent_at, $2::text) AS hour,
        count(*) AS messages,
        percentile_disc(0.1) WITHIN GROUP (ORDER BY extract(EPOCH FROM m.reported_at - m.sent_at)) AS p10_seconds,
        percentile_disc(0.9) WITHIN GROUP (ORDER BY extract(EPOCH FROM m.reported_at - m.sent_at)) AS p90_seconds
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text AND m.sent_at >= $3::timestamptz AND m.sent_at < $4::timestamptz
        AND m.status = 'delivered'
        AND m.reported_at IS NOT NULL
    GROUP BY 1
) AS h
WHERE h.messages >= $5::integer AND h.p90_seconds - h.p10_seconds <= $6::numeric
ORDER BY h.hour
LIMIT $7::bigint;
