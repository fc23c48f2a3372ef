-- Asks: How long did final reports take, for each hour of sending?
-- 问: 按发送的每个小时，终态报告用了多久？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, zone, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column hour (time) 小时: the first moment of the hour of sending | 发送所在小时的开始时刻
-- Column reported (integer) 有时间的回执: messages with a final report that has a time | 终态报告带时间的短信数
-- Column p50_seconds (decimal) 中位时延: half of the reports took at most so many seconds | 一半的回执不超过的秒数
-- Column p90_seconds (decimal) 九成时延: nine in ten took at most so many | 九成的回执不超过的秒数
-- Column p99_seconds (decimal) 百分之九十九时延: 99 in 100 took at most so many | 99% 的回执不超过的秒数
-- Column slowest_seconds (decimal) 最长时延: the longest of them | 其中最长的秒数
-- Note: seconds from our time of sending to the vendor's time of the report: where the two clocks differ, so do these | 从我方发送时间到厂商回执时间的秒数；两边时钟不一致时会有偏差

SELECT
    $1::text AS account,
    c.hour,
    count(*) AS reported,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY c.seconds) AS p50_seconds,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY c.seconds) AS p90_seconds,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY c.seconds) AS p99_seconds,
    max(c.seconds) AS slowest_seconds
FROM (
    SELECT
        date_trunc('hour', m.sent_at, $2::text) AS hour,
        extract(EPOCH FROM m.reported_at - m.sent_at) AS seconds
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text AND m.sent_at >= $3::timestamptz AND m.sent_at < $4::timestamptz
        AND m.status IN ('delivered', 'failed')
        AND m.reported_at IS NOT NULL
) AS c
GROUP BY c.hour
ORDER BY c.hour
LIMIT $5::bigint;
