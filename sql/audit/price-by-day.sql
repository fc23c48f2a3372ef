-- Asks: What did the vendor bill for a segment on each day, and what does the tariff say?
-- 问: 厂商每天按什么单价计费，与资费相比如何？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, account, starts, ends, last_day, first_day, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column tariff_price (decimal) 资费单价: the tariff's price of a segment; empty without a tariff | 资费的单价；没有资费则为空
-- Column lowest_price (decimal) 最低单价: the lowest price billed, to six places | 账单的最低单价，六位小数
-- Column highest_price (decimal) 最高单价: the highest price billed, to six places | 账单的最高单价，六位小数
-- Column lines (integer) 行数: lines with an amount and segments | 有金额和条数的账单行
-- Column differing (integer) 不符行数: of these, at another price than the tariff's | 其中单价与资费不符的行数
-- Column segments (integer) 计费条数: billed segments | 账单的计费条数
-- Column billed (decimal) 账单金额: what these lines bill | 这些行的金额
-- Column at_tariff (decimal) 按资费金额: the billed segments at the tariff's price | 计费条数按资费的金额
-- Column difference (decimal) 差额: billed less that | 账单金额减去按资费金额
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: a line is of the day on which its message was sent; one for no known message is of the day that it names, in statements that share a day with the period | 账单行归入其短信的发送日；没有对应短信的行归入其写明的日期，取与账期有重叠日期的账单

WITH dated AS (
    SELECT
        (l.message_sent_at AT TIME ZONE $1::text)::date AS day,
        l.segments,
        l.amount,
        l.amount / nullif(l.segments, 0) AS price
    FROM audit.lines_unmasked AS l
    WHERE
        l.account = $2::text
        AND l.newest
        AND l.message_sent_at >= $3::timestamptz
        AND l.message_sent_at < $4::timestamptz
    UNION ALL
    SELECT
        (l.sent_at AT TIME ZONE $1::text)::date,
        l.segments,
        l.amount,
        l.amount / nullif(l.segments, 0)
    FROM audit.lines_unmasked AS l
    WHERE
        l.account = $2::text
        AND l.newest
        AND l.first_day <= $5::date
        AND l.last_day >= $6::date
        AND l.message_id IS NULL
        AND l.sent_at >= $3::timestamptz
        AND l.sent_at < $4::timestamptz
)

SELECT
    $2::text AS account,
    b.day,
    t.price AS tariff_price,
    round(min(b.price), 6) AS lowest_price,
    round(max(b.price), 6) AS highest_price,
    count(*) AS lines,
    count(*) FILTER (WHERE b.amount <> b.segments * t.price) AS differing,
    sum(b.segments) AS segments,
    sum(b.amount) AS billed,
    sum(b.segments) * t.price AS at_tariff,
    sum(b.amount) - sum(b.segments) * t.price AS difference,
    $7::text AS currency
FROM dated AS b
LEFT JOIN unnest($8::timestamptz[], $9::timestamptz[], $10::numeric[], $11::text[])
    AS t (starts, ends, price, basis)
    ON b.day::timestamp AT TIME ZONE $1::text >= t.starts AND b.day::timestamp AT TIME ZONE $1::text < t.ends
WHERE b.amount IS NOT NULL AND b.segments > 0
GROUP BY b.day, t.price
ORDER BY b.day
LIMIT $12::bigint;
