-- Asks: At which hours of the day was sent, and with what result?
-- 问: 一天中各个钟点发了多少短信，结果如何？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, tariff_starts, tariff_ends, tariff_prices, tariff_bases, account, starts, ends, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column hour (integer) 钟点: the hour of sending, 0 to 23, in the account's zone | 发送的钟点，0 到 23，按账号的时区
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column delivered (integer) 送达数: of these, delivered | 其中送达的短信数
-- Column failed (integer) 失败数: of these, failed | 其中失败的短信数
-- Column unresolved (integer) 未决数: of these, without a final report | 其中没有最终状态的短信数
-- Column delivered_percent (decimal) 送达率: delivered in 100 messages | 每百条短信中的送达数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

WITH counted AS (
    SELECT
        extract(HOUR FROM (m.sent_at AT TIME ZONE $1::text))::integer AS hour,
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
)

SELECT
    $6::text AS account,
    c.hour,
    sum(c.messages)::bigint AS messages,
    sum(c.segments)::bigint AS segments,
    coalesce(sum(c.messages) FILTER (WHERE c.status = 'delivered'), 0)::bigint AS delivered,
    coalesce(sum(c.messages) FILTER (WHERE c.status = 'failed'), 0)::bigint AS failed,
    coalesce(sum(c.messages) FILTER (WHERE c.status NOT IN ('delivered', 'failed')), 0)::bigint AS unresolved,
    round(
        100 * coalesce(sum(c.messages) FILTER (WHERE c.status = 'delivered'), 0) / sum(c.messages), 2
    ) AS delivered_percent,
    sum(c.owed) AS owed,
    $9::text AS currency
FROM counted AS c
GROUP BY c.hour
ORDER BY hour
LIMIT $10::bigint;
