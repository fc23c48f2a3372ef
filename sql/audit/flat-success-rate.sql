-- Asks: Does the share of deliveries vary less from day to day than chance would have it?
-- 问: 每天的送达率波动是否小于随机应有的幅度？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter ratio (decimal, default 0.5, 0 to 1): suspicious below this ratio | 比值低于它则可疑
-- Parameter least (integer, default 100, 1 to 100000000): look only at days with at least so many messages | 只看至少有这么多短信的日子
-- Binds: zone, account, starts, ends, least, ratio, limit
-- Column account (text) 账号: the account | 账号
-- Column days (integer) 天数: days with enough messages | 短信数足够的天数
-- Column messages (integer) 短信数: messages of those days that have a final report | 这些天有终态报告的短信数
-- Column delivered_percent (decimal) 送达率: delivered in 100 of them | 每百条中的送达数
-- Column observed_deviation (decimal) 实际标准差: the standard deviation of the days' shares, in percent | 各天送达率的标准差（百分点）
-- Column chance_deviation (decimal) 随机标准差: what chance alone would give, in percent | 仅凭随机应有的标准差（百分点）
-- Column ratio (decimal) 比值: the first divided by the second; empty where chance gives none | 前者除以后者；随机标准差为零时为空
-- Column suspicious (boolean) 可疑: whether the ratio is below the limit, or all days are alike where chance would differ | 比值是否低于给定界限
-- Note: a sign that reports may be made up, and no proof: ask the vendor for the carrier's own receipts | 只是回执可能造假的迹象，不是证据：请向厂商索要运营商的原始回执

WITH days AS (
    SELECT
        (m.sent_at AT TIME ZONE $1::text)::date AS day,
        count(*)::numeric AS messages,
        count(*) FILTER (WHERE m.status = 'delivered')::numeric AS delivered
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $2::text AND m.sent_at >= $3::timestamptz AND m.sent_at < $4::timestamptz
        AND m.status IN ('delivered', 'failed')
    GROUP BY 1
    HAVING count(*) >= $5::integer
),

whole AS (
    SELECT
        count(*) AS days,
        sum(d.messages)::bigint AS messages,
        sum(d.delivered) / sum(d.messages) AS share,
        stddev_samp(d.delivered / d.messages) AS observed,
        avg(1 / d.messages) AS inverse
    FROM days AS d
    HAVING count(*) >= 2
)

SELECT
    $2::text AS account,
    w.days,
    w.messages,
    round(100 * w.share, 2) AS delivered_percent,
    round(100 * w.observed, 3) AS observed_deviation,
    round(100 * sqrt(w.share * (1 - w.share) * w.inverse), 3) AS chance_deviation,
    round(w.observed / nullif(sqrt(w.share * (1 - w.share) * w.inverse), 0), 3) AS ratio,
    coalesce(w.observed / nullif(sqrt(w.share * (1 - w.share) * w.inverse), 0) < $6::numeric, FALSE) AS suspicious
FROM whole AS w
LIMIT $7::bigint;
