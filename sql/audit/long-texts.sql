-- Asks: Which texts take more than one segment, and what do the segments beyond the first cost?
-- 问: 哪些短信超过一条，超出的条数花了多少钱？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter segments (integer, default 2, 2 to 1000): of at least so many segments | 至少这么多条
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, segments, limit
-- Column account (text) 账号: the account | 账号
-- Column template_id (text) 模板: the template's id; empty without one | 模板编号；没有则为空
-- Column sign (text) 签名: the sign as registered; empty without one | 登记的签名；没有则为空
-- Column segments_each (integer) 每条短信条数: segments of each message | 每条短信的计费条数
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column longest (integer) 最长字数: characters of the longest text; empty where no text was registered | 最长内容的字数；没有登记内容则为空
-- Column extra_segments (integer) 超出条数: segments beyond the first | 第一条以外的条数
-- Column extra_owed (decimal) 超出应付: what the tariffs ask for those | 超出部分应付的金额
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

SELECT
    $1::text AS account,
    m.template_id,
    m.sign,
    m.segments AS segments_each,
    count(*) AS messages,
    max(length(m.content)) AS longest,
    sum(m.segments - 1) AS extra_segments,
    sum(
        CASE
            WHEN audit.charged(t.basis, m.status) THEN (m.segments - 1) * t.price
            WHEN t.price IS NOT NULL THEN 0
        END
    ) AS extra_owed,
    sum(
        CASE
            WHEN audit.charged(t.basis, m.status) THEN m.segments * t.price
            WHEN t.price IS NOT NULL THEN 0
        END
    ) AS owed,
    $2::text AS currency
FROM audit.sent_unmasked AS m
LEFT JOIN unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
    AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE
    m.account = $1::text AND m.sent_at >= $7::timestamptz AND m.sent_at < $8::timestamptz
    AND m.segments >= $9::integer
GROUP BY m.template_id, m.sign, m.segments
ORDER BY extra_segments DESC, m.template_id, m.sign, m.segments
LIMIT $10::bigint;
