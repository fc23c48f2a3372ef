-- Asks: On which days did the price that most lines were billed at change?
-- 问: 账单的主要单价在哪些天发生了变化？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, account, starts, ends, last_day, first_day, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column price_before (decimal) 原单价: the price of most lines on the day before that has any | 前一个有账单的日子的主要单价
-- Column price (decimal) 新单价: the price of most lines from this day on, to six places | 当天的主要单价，六位小数
-- Column tariff_price (decimal) 资费单价: the tariff's price on this day; empty without a tariff | 当天的资费单价；没有资费则为空
-- Column announced (boolean) 资费已变更: whether the tariff changed on this day too | 资费是否也在当天变更
-- Column lines (integer) 行数: lines of the day | 当天的账单行数
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: of two prices with as many lines the lower counts | 两个单价的行数相同时取较低者

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
    b.price_before,
    b.price,
    t.price AS tariff_price,
    coalesce(b.day::timestamp AT TIME ZONE $1::text = t.starts, FALSE) AS announced,
    b.lines,
    $7::text AS currency
FROM (
    SELECT
        d.day,
        d.price,
        d.lines,
        lag(d.price) OVER (ORDER BY d.day) AS price_before
    FROM (
        SELECT
            l.day,
            round(mode() WITHIN GROUP (ORDER BY l.price), 6) AS price,
            count(*) AS lines
        FROM dated AS l
        WHERE l.amount IS NOT NULL AND l.segments > 0
        GROUP BY l.day
    ) AS d
) AS b
LEFT JOIN unnest($8::timestamptz[], $9::timestamptz[], $10::numeric[], $11::text[])
    AS t (starts, ends, price, basis)
    ON b.day::timestamp AT TIME ZONE $1::text >= t.starts AND b.day::timestamp AT TIME ZONE $1::text < t.ends
WHERE b.price <> b.price_before
ORDER BY b.day
LIMIT $12::bigint;
