-- Asks: How long did delivery take on each carrier's numbers?
-- 问: 发往各运营商的短信多久送达？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column carrier (text) 运营商: China Mobile 移动, China Unicom 联通, China Telecom 电信, China Broadnet 广电; empty for any other number | 移动、联通、电信、广电；其他号码为空
-- Column reported (integer) 有时间的回执: delivered messages whose report has a time | 回执带时间的送达短信数
-- Column p50_seconds (decimal) 中位时延: half of the reports took at most so many seconds | 一半的回执不超过的秒数
-- Column p90_seconds (decimal) 九成时延: nine in ten took at most so many | 九成的回执不超过的秒数
-- Column p99_seconds (decimal) 百分之九十九时延: 99 in 100 took at most so many | 99% 的回执不超过的秒数
-- Column slowest_seconds (decimal) 最长时延: the longest of them | 其中最长的秒数
-- Note: a prefix says which carrier issued the number; it may have been carried to another since | 号段只说明号码由哪家运营商发放；携号转网后可能已换运营商

SELECT
    $1::text AS account,
    coalesce(p4.carrier || ' ' || p4.carrier_zh, p3.carrier || ' ' || p3.carrier_zh) AS carrier,
    count(*) AS reported,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY c.seconds) AS p50_seconds,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY c.seconds) AS p90_seconds,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY c.seconds) AS p99_seconds,
    max(c.seconds) AS slowest_seconds
FROM (
    SELECT
        CASE WHEN length(m.phone) = 11 THEN left(m.phone, 4) END AS start,
        extract(EPOCH FROM m.reported_at - m.sent_at) AS seconds
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
        AND m.status = 'delivered'
        AND m.reported_at IS NOT NULL
) AS c
LEFT JOIN audit.prefixes AS p4 ON c.start = p4.prefix
LEFT JOIN audit.prefixes AS p3 ON left(c.start, 3) = p3.prefix
GROUP BY 2
ORDER BY reported DESC, carrier
LIMIT $4::bigint;
