-- Asks: What was sent to the numbers of each carrier, and with what result?
-- 问: 发往各运营商号码的短信有多少，结果如何？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: tariff_starts, tariff_ends, tariff_prices, tariff_bases, account, starts, ends, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column carrier (text) 运营商: China Mobile 移动, China Unicom 联通, China Telecom 电信, China Broadnet 广电; empty for any other number | 移动、联通、电信、广电；其他号码为空
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column delivered (integer) 送达数: of these, delivered | 其中送达的短信数
-- Column failed (integer) 失败数: of these, failed | 其中失败的短信数
-- Column unresolved (integer) 未决数: of these, without a final report | 其中没有最终状态的短信数
-- Column delivered_percent (decimal) 送达率: delivered in 100 messages | 每百条短信中的送达数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: a prefix says which carrier issued the number; it may have been carried to another since | 号段只说明号码由哪家运营商发放；携号转网后可能已换运营商

WITH counted AS (
    SELECT
        CASE WHEN length(m.phone) = 11 THEN left(m.phone, 4) END AS start,
        m.status,
        count(*) AS messages,
        sum(m.segments) AS segments,
        CASE
            WHEN audit.charged(t.basis, m.status) THEN sum(m.segments) * t.price
            WHEN t.price IS NOT NULL THEN 0
        END AS owed
    FROM audit.sent_unmasked AS m
    LEFT JOIN unnest($1::timestamptz[], $2::timestamptz[], $3::numeric[], $4::text[])
        AS t (starts, ends, price, basis)
        ON m.sent_at >= t.starts AND m.sent_at < t.ends
    WHERE m.account = $5::text AND m.sent_at >= $6::timestamptz AND m.sent_at < $7::timestamptz
    GROUP BY 1, m.status, t.price, t.basis
),

issued AS (
    SELECT
        coalesce(p4.carrier || ' ' || p4.carrier_zh, p3.carrier || ' ' || p3.carrier_zh) AS carrier,
        s.status,
        s.messages,
        s.segments,
        s.owed
    FROM counted AS s
    LEFT JOIN audit.prefixes AS p4 ON s.start = p4.prefix
    LEFT JOIN audit.prefixes AS p3 ON left(s.start, 3) = p3.prefix
)

SELECT
    $5::text AS account,
    c.carrier,
    sum(c.messages)::bigint AS messages,
    sum(c.segments)::bigint AS segments,
    coalesce(sum(c.messages) FILTER (WHERE c.status = 'delivered'), 0)::bigint AS delivered,
    coalesce(sum(c.messages) FILTER (WHERE c.status = 'failed'), 0)::bigint AS failed,
    coalesce(sum(c.messages) FILTER (WHERE c.status NOT IN ('delivered', 'failed')), 0)::bigint AS unresolved,
    round(
        100 * coalesce(sum(c.messages) FILTER (WHERE c.status = 'delivered'), 0) / sum(c.messages), 2
    ) AS delivered_percent,
    sum(c.owed) AS owed,
    $8::text AS currency
FROM issued AS c
GROUP BY c.carrier
ORDER BY messages DESC, c.carrier
LIMIT $9::bigint;
