-- Asks: What was sent on each day, what became of it, and what is owed for it?
-- 问: 每天发了多少短信，结果如何，应付多少？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, account, starts, ends, tariff_starts, tariff_ends, tariff_prices, tariff_bases, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column delivered (integer) 送达数: of these, delivered | 其中送达的短信数
-- Column failed (integer) 失败数: of these, failed | 其中失败的短信数
-- Column unresolved (integer) 未决数: of these, without a final report | 其中没有最终状态的短信数
-- Column delivered_percent (decimal) 送达率: delivered in 100 messages | 每百条短信中的送达数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

WITH counted AS (
    -- One stretch of the index, read once. Joined to a range for each day it took far longer.
    SELECT
        (o.sent_at AT TIME ZONE $1::text)::date AS day,
        o.status,
        count(*) AS messages,
        sum(o.segments) AS segments
    FROM audit.sent_unmasked AS o
    WHERE o.account = $2::text AND o.sent_at >= $3::timestamptz AND o.sent_at < $4::timestamptz
    GROUP BY 1, o.status
),

priced AS (
    SELECT
        d.day,
        d.status,
        d.messages,
        d.segments,
        CASE
            WHEN audit.charged(t.basis, d.status) THEN d.segments * t.price
            WHEN t.price IS NOT NULL THEN 0
        END AS owed
    FROM counted AS d
    LEFT JOIN unnest($5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::text[])
        AS t (starts, ends, price, basis)
        -- A tariff holds for whole days.
        ON
            d.day::timestamp AT TIME ZONE $1::text >= t.starts
            AND d.day::timestamp AT TIME ZONE $1::text < t.ends
)

SELECT
    $2::text AS account,
    c.day,
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
FROM priced AS c
GROUP BY c.day
ORDER BY c.day
LIMIT $10::bigint;
