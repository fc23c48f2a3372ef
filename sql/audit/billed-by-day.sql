-- Asks: What is owed and what is billed for each day's messages?
-- 问: 每天的短信应付多少，账单又收了多少？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: zone, account, starts, ends, last_day, first_day, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, limit
-- Column account (text) 账号: the account | 账号
-- Column day (date) 日期: the day of sending, in the account's zone | 发送日期，按账号的时区
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column owed_segments (integer) 应付条数: segments that the tariffs charge for | 按资费应计费的条数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column lines (integer) 行数: lines for the day's messages | 当天短信的账单行数
-- Column billed_segments (integer) 计费条数: their segments | 这些行的计费条数
-- Column billed (decimal) 账单金额: their amounts; a line without one at its segments times the tariff's price | 这些行的金额；没有金额的行按条数乘资费单价
-- Column difference (decimal) 差额: billed less owed | 账单金额减应付
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: lines of the newest version of each statement, whatever its period; a line for no known message is of the day that it names, in statements that share a day with the period | 取每份账单最新版本的行，不论其账期；没有对应短信的行归入其写明的日期，取与账期有重叠日期的账单

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
),

owed AS (
    SELECT
        (m.sent_at AT TIME ZONE $1::text)::date AS day,
        m.status,
        count(*) AS messages,
        sum(m.segments) AS segments
    FROM audit.sent_unmasked AS m
    WHERE m.account = $2::text AND m.sent_at >= $3::timestamptz AND m.sent_at < $4::timestamptz
    GROUP BY 1, m.status
),

billed AS (
    SELECT
        b.day,
        count(*) AS lines,
        sum(b.segments) AS segments,
        sum(b.amount) AS amount,
        sum(b.segments) FILTER (WHERE b.amount IS NULL) AS unpriced
    FROM dated AS b
    GROUP BY b.day
),

days AS (
    SELECT
        d.day,
        sum(d.messages)::bigint AS messages,
        sum(d.delivered)::bigint AS delivered,
        sum(d.accepted)::bigint AS accepted,
        sum(d.segments)::bigint AS segments,
        sum(d.lines)::bigint AS lines,
        sum(d.billed)::bigint AS billed,
        sum(d.amount) AS amount,
        sum(d.unpriced) AS unpriced
    FROM (
        SELECT
            o.day,
            o.messages,
            CASE WHEN audit.charged('delivered', o.status) THEN o.segments ELSE 0 END AS delivered,
            CASE WHEN audit.charged('accepted', o.status) THEN o.segments ELSE 0 END AS accepted,
            CASE WHEN audit.charged('submitted', o.status) THEN o.segments ELSE 0 END AS segments,
            0 AS lines,
            0 AS billed,
            0::numeric AS amount,
            0 AS unpriced
        FROM owed AS o
        UNION ALL
        SELECT
            b.day,
            0,
            0,
            0,
            0,
            b.lines,
            b.segments,
            coalesce(b.amount, 0),
            coalesce(b.unpriced, 0)
        FROM billed AS b
    ) AS d
    GROUP BY d.day
)

SELECT
    $2::text AS account,
    b.day,
    b.messages,
    CASE t.basis WHEN 'submitted' THEN b.segments WHEN 'accepted' THEN b.accepted ELSE b.delivered END AS owed_segments,
    CASE t.basis WHEN 'submitted' THEN b.segments WHEN 'accepted' THEN b.accepted ELSE b.delivered END * t.price AS owed,
    b.lines,
    b.billed AS billed_segments,
    b.amount + b.unpriced * coalesce(t.price, 0) AS billed,
    b.amount + b.unpriced * t.price
    - CASE t.basis WHEN 'submitted' THEN b.segments WHEN 'accepted' THEN b.accepted ELSE b.delivered END * t.price AS difference,
    $7::text AS currency
FROM days AS b
LEFT JOIN unnest($8::timestamptz[], $9::timestamptz[], $10::numeric[], $11::text[])
    AS t (starts, ends, price, basis)
    ON b.day::timestamp AT TIME ZONE $1::text >= t.starts AND b.day::timestamp AT TIME ZONE $1::text < t.ends
ORDER BY b.day
LIMIT $12::bigint;
