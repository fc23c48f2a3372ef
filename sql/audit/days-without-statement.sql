-- Asks: On which days were messages sent that no statement covers?
-- 问: 哪些天发了短信，却没有任何账单覆盖？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, zone, starts, ends, tariff_starts, tariff_ends, tariff_prices, tariff_bases, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column delivered (integer) 送达数: of these, delivered | 其中送达的短信数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

SELECT
    $1::text AS account,
    b.day,
    sum(b.messages)::bigint AS messages,
    sum(b.segments)::bigint AS segments,
    coalesce(sum(b.messages) FILTER (WHERE b.status = 'delivered'), 0)::bigint AS delivered,
    sum(
        CASE
            WHEN audit.charged(t.basis, b.status) THEN b.segments * t.price
            WHEN t.price IS NOT NULL THEN 0
        END
    ) AS owed,
    $2::text AS currency
FROM (
    SELECT
        (m.sent_at AT TIME ZONE $3::text)::date AS day,
        m.status,
        count(*) AS messages,
        sum(m.segments) AS segments
    FROM audit.sent_unmasked AS m
    WHERE m.account = $1::text AND m.sent_at >= $4::timestamptz AND m.sent_at < $5::timestamptz
    GROUP BY 1, m.status
) AS b
LEFT JOIN unnest($6::timestamptz[], $7::timestamptz[], $8::numeric[], $9::text[])
    AS t (starts, ends, price, basis)
    ON b.day::timestamp AT TIME ZONE $3::text >= t.starts AND b.day::timestamp AT TIME ZONE $3::text < t.ends
WHERE
    NOT EXISTS (
        SELECT 1
        FROM statements AS s
        WHERE s.account = $1::text AND s.first_day <= b.day AND s.last_day >= b.day
    )
GROUP BY b.day
ORDER BY b.day
LIMIT $10::bigint;
