-- Asks: How did each month of the period compare with the one before?
-- 问: 账期内各月与上月相比如何？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, tariff_starts, tariff_ends, tariff_prices, tariff_bases, account, starts, ends, first_day, last_day, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column month (date) 月份: the first day of the month, in the account's zone | 月份的第一天，按账号的时区
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column delivered_percent (decimal) 送达率: delivered in 100 messages | 每百条短信中的送达数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column billed (decimal) 账单金额: the newest statements whose first day is in the month; empty without one | 首日在该月的账单（最新版本）的金额；没有则为空
-- Column messages_change_percent (decimal) 短信数环比: messages against the month before, in percent | 短信数与上月相比的百分比变化
-- Column owed_change_percent (decimal) 应付环比: owed against the month before, in percent | 应付与上月相比的百分比变化
-- Column billed_change_percent (decimal) 账单环比: billed against the month before, in percent | 账单金额与上月相比的百分比变化
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: give a period of several months, such as 2026-01-01..2026-12-31 | 请给出跨多个月的账期，如 2026-01-01..2026-12-31

WITH counted AS (
    SELECT
        date_trunc('month', (m.sent_at AT TIME ZONE $1::text))::date AS month,
        m.status,
        count(*) AS messages,
        sum(m.segments) AS segments,
        CASE
            WHEN audit.charged(t.basis, m.status) THEN sum(m.segments) * t.price
            WHEN t.price IS NOT NULL THEN 0
        END AS owed
    FROM audit.sent_unmasked AS m
    LEFT JOIN unnest($2::timestamptz[], $3::timestamptz[], $4::numeric[], $5::text[])
        AS t (starts, ends, price, basis)
        ON m.sent_at >= t.starts AND m.sent_at < t.ends
    WHERE m.account = $6::text AND m.sent_at >= $7::timestamptz AND m.sent_at < $8::timestamptz
    GROUP BY 1, m.status, t.price, t.basis
),

billed AS (
    SELECT
        date_trunc('month', s.first_day::timestamp)::date AS month,
        sum(s.amount) AS billed
    FROM audit.statements AS s
    WHERE s.account = $6::text AND s.newest AND s.first_day >= $9::date AND s.first_day <= $10::date
    GROUP BY 1
),

months AS (
    SELECT
        c.month,
        sum(c.messages)::bigint AS messages,
        sum(c.segments)::bigint AS segments,
        round(
            100 * coalesce(sum(c.messages) FILTER (WHERE c.status = 'delivered'), 0) / sum(c.messages), 2
        ) AS delivered_percent,
        sum(c.owed) AS owed,
        min(b.billed) AS billed
    FROM counted AS c
    LEFT JOIN billed AS b ON c.month = b.month
    GROUP BY c.month
)

SELECT
    $6::text AS account,
    n.month,
    n.messages,
    n.segments,
    n.delivered_percent,
    n.owed,
    n.billed,
    round(100.0 * n.messages / p.messages - 100, 2) AS messages_change_percent,
    round(100 * n.owed / nullif(p.owed, 0) - 100, 2) AS owed_change_percent,
    round(100 * n.billed / nullif(p.billed, 0) - 100, 2) AS billed_change_percent,
    $11::text AS currency
FROM months AS n
LEFT JOIN months AS p ON n.month = p.month + interval '1 month'
ORDER BY n.month
LIMIT $12::bigint;
