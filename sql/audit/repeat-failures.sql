-- Asks: Which numbers were written to again and again without one delivery?
-- 问: 哪些号码反复发送却从未送达？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter failures (integer, default 3, 1 to 1000000): at least so many failures | 失败至少这么多次
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, failures, limit
-- Column account (text) 账号: the account | 账号
-- Column phone (text) 手机号: the number | 手机号
-- Column messages (integer) 失败数: failed messages to it | 发往该号码并失败的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column last_sent_at (time) 最近发送: when the last of them was sent | 其中最后一条的发送时间
-- Column last_code (text) 最近代码: the vendor's code for the last one | 最后一条的厂商代码
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

SELECT
    $1::text AS account,
    m.phone,
    count(*) FILTER (WHERE m.status = 'failed') AS messages,
    sum(m.segments) FILTER (WHERE m.status = 'failed') AS segments,
    max(m.sent_at) FILTER (WHERE m.status = 'failed') AS last_sent_at,
    (array_agg(m.vendor_code ORDER BY m.sent_at DESC, m.id) FILTER (WHERE m.status = 'failed'))[1] AS last_code,
    sum(
        CASE
            WHEN audit.charged(t.basis, m.status) THEN m.segments * t.price
            WHEN t.price IS NOT NULL THEN 0
        END
    ) FILTER (WHERE m.status = 'failed') AS owed,
    $2::text AS currency
FROM audit.sent_unmasked AS m
LEFT JOIN unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
    AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE m.account = $1::text AND m.sent_at >= $7::timestamptz AND m.sent_at < $8::timestamptz
GROUP BY m.phone
HAVING
    count(*) FILTER (WHERE m.status = 'failed') >= $9::integer
    AND count(*) FILTER (WHERE m.status = 'delivered') = 0
ORDER BY messages DESC, m.phone
LIMIT $10::bigint;
